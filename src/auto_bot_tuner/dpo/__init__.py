"""Direct preference optimisation and its family: a model learns from pairs of answers, without a reward model."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "DPOConfig": "config",
        "DPOTrainer": "trainer",
        "PreferenceDataset": "dataset",
        "create_reference_model": ".training.reference",
        "dpo_loss": "loss",
        "kto_loss": "loss",
    },
)
