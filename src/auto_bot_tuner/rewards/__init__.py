"""Reward sources: who says what a response is worth."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Attempt": "source",
        "ModelReward": "models",
        "RewardSource": "source",
        "WeightedSum": "weighted_sum",
        "as_reward": "named",
        "check_reward_names": "named",
        "reward_from_name": "named",
        "rewards_from_names": "named",
    },
)
