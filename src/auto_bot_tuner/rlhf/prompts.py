"""PPO's prompts are those of every method that learns from rollouts: `rollouts/dataset.py`."""

from auto_bot_tuner.rollouts.dataset import PromptDataset

__all__ = ["PromptDataset"]
