"""What the model writes, at each evaluation, to the same few prompts: the curve that a person can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.generation import respond

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer


def sample_responses(trainer: Trainer) -> list[dict[str, Any]]:
    """Greedy answers (the same model gives the same words) to the fixed prompts: `prompt`, `response`, `ended`."""
    conversations = sample_conversations(trainer)
    if not conversations:
        return []
    config = GenerationConfig(max_new_tokens=trainer.config.sample_max_new_tokens, temperature=0.0)
    responses = respond(trainer.model, trainer.tokenizer, conversations, config)
    return [
        {"prompt": conversation[-1]["content"], "response": response.text, "ended": response.ended}
        for conversation, response in zip(conversations, responses, strict=True)
    ]


def sample_conversations(trainer: Trainer) -> list[list[dict[str, str]]]:
    """The prompts of the config, else the first of the evaluation (or training) rows."""
    if trainer.config.sample_prompts:
        return [[{"role": "user", "content": prompt}] for prompt in trainer.config.sample_prompts]
    for dataset in (trainer.eval_dataset, trainer.train_dataset):
        if hasattr(dataset, "prompts"):
            return list(dataset.prompts(trainer.config.num_samples))
    return []
