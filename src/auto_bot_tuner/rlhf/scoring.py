"""Text in, scores out: what an evaluation or a policy's training asks of a reward model (or of an ensemble).

A response is read as training reads it, through the prompt format, and up to its end token. One that never ended has
none: it is scored without, so that a reward model can hold that against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation.engine import context_limit, evaluation_mode
from auto_bot_tuner.utils.errors import UserError


def score_responses(
    reward_model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    responses: Sequence[str],
    batch_size: int = 16,
    ended: Sequence[bool] | None = None,
) -> list[float]:
    """The score of each response to its conversation (which ends with a user turn).

    Args:
        ended: whether each response ended by itself; one that ran out of room is read without an end token. None: all.

    Raises:
        UserError: a system message leaves no room for an answer.
    """
    ended = [True] * len(responses) if ended is None else ended
    chats = [
        [*conversation, {"role": "assistant", "content": response}]
        for conversation, response in zip(conversations, responses, strict=True)
    ]
    rows = []
    prompt_format, limit = PromptFormat.from_tokenizer(tokenizer), context_limit(reward_model)
    for row, has_end in zip(prompt_format.encode_batch(chats, limit), ended, strict=True):
        if not any(row.trained):
            raise UserError(
                f"a prompt leaves no room for an answer: the reward model reads {limit} tokens, and its system message "
                "stays whole; shorten it, or take a reward model that reads more"
            )
        end = max(position for position, trained in enumerate(row.trained) if trained)  # of the answer: its end token
        rows.append(row.input_ids[: end + (has_end or row.cut_response > 0)])
    return score_rows(reward_model, rows, batch_size)


def up_to_the_end(input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A training row (T,) as it is scored: up to its last trained token, the end token.

    Some templates write more after it (a line break): a policy stops before that, and is scored there.
    """
    last = int((labels != IGNORE_INDEX).nonzero()[-1])
    return input_ids[: last + 1]


@torch.no_grad()
def score_rows(reward_model: Any, rows: Sequence[Sequence[int]], batch_size: int = 16) -> list[float]:
    """The score of each row of token ids; rows of similar length travel together."""
    scores = [0.0] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    with evaluation_mode(reward_model):
        for start in range(0, len(rows), batch_size):
            batch = by_length[start : start + batch_size]
            longest = len(rows[batch[0]])
            input_ids = torch.tensor([[*rows[i], *[0] * (longest - len(rows[i]))] for i in batch])  # (B, T)
            mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in batch])  # (B, T)
            found = reward_model(input_ids.to(reward_model.device), mask.to(reward_model.device)).tolist()
            for i, score in zip(batch, found, strict=True):
                scores[i] = score
    return scores
