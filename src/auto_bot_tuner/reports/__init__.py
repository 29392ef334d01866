"""Pages that a person opens in a browser: one run, several runs side by side, the story of the demo.

Each page is one file that needs no network, no script and no server. It is made of files alone, long after a run if
need be, so nothing here imports torch.
"""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "write_comparison": "comparison",
        "write_run_report": "run_report",
        "write_story": "story",
    },
)
