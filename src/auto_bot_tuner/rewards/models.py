"""A trained reward model (or an ensemble) as a reward source.

The policy's response *is* a sequence of token ids. Turned into text and back it may become another one: what was
sampled as "an" + "y" is read again as "any", a broken character becomes a question mark, and the score would be that of
a text that the policy never wrote token by token. So where the reward model knows the policy's ids, it reads them as
they are. Where it has a tokenizer or a template of its own there is no other way than the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation.engine import context_limit
from auto_bot_tuner.evaluation.generation import decode_continuation
from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.rlhf.scoring import score_responses, score_rows


class ModelReward:
    """Attempts → scores of a `RewardModel` or `RewardEnsemble`.

    Args:
        reward_model: what scores; it is used as it is, without gradients.
        tokenizer: its own, which need not be the policy's.
        name: in logs.
        batch_size: rows scored at once.

    A response that ended is read up to its end token, one that was cut off is read without any.
    """

    def __init__(self, reward_model: Any, tokenizer: Any, name: str = "reward_model", batch_size: int = 16) -> None:
        self.reward_model = reward_model
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.prompt_format = PromptFormat.from_tokenizer(tokenizer)
        self.end_token = self.prompt_format.stop_token_ids[0]  # that it was trained to see at the end of an answer
        self.vocabulary = int(reward_model.config.get_text_config().vocab_size)

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        known = self.knows_ids(attempts)
        by_ids = [i for i, is_known in enumerate(known) if is_known]
        by_text = [i for i, is_known in enumerate(known) if not is_known]
        rows = [attempts[i].prompt_ids + attempts[i].response_ids for i in by_ids]
        told = [attempts[i] for i in by_text]
        found = dict(zip(by_ids, score_rows(self.reward_model, rows, self.batch_size), strict=True))
        texts = score_responses(
            self.reward_model,
            self.tokenizer,
            [attempt.prompt for attempt in told],
            [attempt.response for attempt in told],
            self.batch_size,
            [attempt.ended for attempt in told],
        )
        found |= dict(zip(by_text, texts, strict=True))
        return [found[i] for i in range(len(attempts))]

    def knows_ids(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Whether each attempt's ids mean to the reward model what they mean to the policy, and fit into its context.

        Found out and not taken on trust, since ids of another vocabulary would be scored without complaint: it writes
        the same prompt with the same ids, reads the same response in them, and ends an answer with the same token. (A
        row longer than its context goes by text, so that the oldest turns are what is left out.)
        """
        limit = context_limit(self.reward_model)
        prompts = self.prompt_format.encode_prompts([attempt.prompt for attempt in attempts]) if attempts else []
        known = []
        for attempt, prompt_ids in zip(attempts, prompts, strict=True):
            ids = attempt.response_ids
            spoken = ids[:-1] if attempt.ended else ids
            known.append(
                prompt_ids == attempt.prompt_ids
                and all(0 <= token < self.vocabulary for token in ids)
                and (limit is None or len(prompt_ids) + len(ids) <= limit)
                and (not attempt.ended or ids[-1:] == [self.end_token])
                and decode_continuation(self.tokenizer, prompt_ids, spoken) == attempt.response
            )
        return known
