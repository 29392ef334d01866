"""GRPO reads the same prompts as PPO: a row keeps its reference answer, which is all that a verifier needs besides."""

from auto_bot_tuner.rollouts.dataset import PromptDataset

__all__ = ["PromptDataset"]
