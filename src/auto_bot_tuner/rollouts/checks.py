"""What can be wrong with prompts before the first response is written."""

from __future__ import annotations

from auto_bot_tuner.evaluation.engine import context_limit
from auto_bot_tuner.rollouts.schedule import RolloutSchedule
from auto_bot_tuner.training.checks import check_ids
from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.utils.errors import UsageError, UserError


def check_prompts(trainer: RolloutSchedule) -> None:
    """There are prompts, their ids have embeddings, and they leave room for a response.

    Raises:
        UserError, UsageError: with what to change.
    """
    if len(trainer.train_dataset) == 0:
        raise UserError("there are no prompts: check --dataset, --split and --max-samples")
    prompts, minibatches = len(trainer.train_dataset), trainer.config.minibatches
    if prompts < minibatches:  # most steps would have no prompt at all
        raise UsageError(f"{prompts} prompts cannot be cut into {minibatches} minibatches: --minibatches {prompts}")
    check_ids(trainer.train_dataset, causal_model(trainer.model).get_input_embeddings().weight.shape[0])
    limit, new = context_limit(trainer.model), trainer.config.max_new_tokens
    longest = max(length for data in (trainer.train_dataset, trainer.eval_dataset) if data for length in data.lengths)
    if limit is not None and longest + new > limit:
        raise UserError(
            f"the model reads {limit} tokens, and the longest prompt has {longest}: no room for {new} more, so "
            f"responses would be cut before their time; --max-length {max(limit - new, limit // 2)}"
            + (f" --max-new-tokens {limit // 2}" if new > limit // 2 else "")
        )
