"""Learning from rewards: a reward model is fitted to human preferences, and a policy is trained against it."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "RewardModelDataset": "dataset",
    },
)
