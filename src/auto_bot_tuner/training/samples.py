"""What the model writes, at each evaluation, to the same few prompts: the curve that a person can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import context_limit
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
    datasets = [dataset for dataset in (trainer.eval_dataset, trainer.train_dataset) if hasattr(dataset, "prompts")]
    if trainer.config.sample_prompts:
        first: list[dict[str, str]] = next((chat for dataset in datasets for chat in dataset.prompts(1)), [])
        system = [message for message in first if message["role"] == "system"]  # asked as the rows ask
        return [[*system, {"role": "user", "content": prompt}] for prompt in trainer.config.sample_prompts]
    prompts = list(datasets[0].prompts(trainer.config.num_samples)) if datasets else []
    # The rows were cut to max_length; a prompt as a whole may be longer than what the model can read.
    limit = context_limit(trainer.model)
    lengths = [len(ids) for ids in PromptFormat.from_tokenizer(trainer.tokenizer).encode_prompts(prompts)]
    return [chat for chat, length in zip(prompts, lengths, strict=True) if limit is None or length < limit]
