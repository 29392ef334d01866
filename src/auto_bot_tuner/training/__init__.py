"""The one optimisation loop and what it needs: batching, optimiser, checkpoints, reporting."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "DatasetConfig": "config",
        "Event": "events",
        "ModelConfig": "config",
        "Trainer": "loop",
        "TrainingConfig": "config",
    },
)
