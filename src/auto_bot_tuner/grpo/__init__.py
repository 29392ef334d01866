"""Group-relative policy optimisation: several responses to one prompt, and each is judged by how it compares."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "GRPOConfig": "config",
        "GRPOTrainer": "trainer",
        "PromptDataset": "dataset",
        "group_advantages": "loss",
        "grpo_loss": "loss",
    },
)
