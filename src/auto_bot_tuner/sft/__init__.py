"""Supervised fine-tuning: a base model learns to answer by imitating answers."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "InstructionDataset": "dataset",
        "SFTConfig": "config",
        "SFTTrainer": "trainer",
        "best_of_rows": "best_of",
        "load_instruction_dataset": "dataset",
        "preview_formatted_sample": "dataset",
        "sft_loss": "loss",
    },
)
