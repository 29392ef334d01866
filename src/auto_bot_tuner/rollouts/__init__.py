"""Rollouts: the policy writes responses, they are scored, and become training data. PPO and GRPO stand on this."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "OnPolicyConfig": "config",
        "OnPolicyTrainer": "trainer",
        "PromptDataset": "dataset",
        "Rollout": "rollout",
    },
)
