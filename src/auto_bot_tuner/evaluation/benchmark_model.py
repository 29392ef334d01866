"""A checkpoint of ours as lm-eval's language model: the same ids, and the same end of an answer, as in training.

lm-eval's own class for transformers models does the batching and the log-likelihoods. Three things it cannot know:

- *Where prompt and answer part.* It moves white space from the end of a prompt to the answer and tokenises both at
  once. In chat format the prompt ends with the opened turn ("### Response:\\n"), and training tokenised the two apart.
- *What ends an answer*: the end token of the chat template, which need not be the tokenizer's end of text.
- *Small contexts.* It keeps 256 tokens free for an answer; a context of 256 would have none left for the question.

Imports lm-eval, which is an extra: import this module only where it is there.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from lm_eval.models.huggingface import HFLM

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.data.tokenization import Segment


class CheckpointLM(HFLM):  # type: ignore[misc,unused-ignore]
    """A loaded model with its tokenizer, adapter included, for `lm_eval.simple_evaluate`."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, in_chat_format: bool) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.prompt_format = PromptFormat.from_tokenizer(tokenizer) if in_chat_format else None

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """(ids of the prompt, ids of the answer), tokenised apart as training does it."""
        if self.prompt_format is None:
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        segments = self.prompt_format.segment_tokenizer
        prompt, answer = segments.encode([[Segment(context, False), Segment(continuation, True)]])[0]
        return segments.with_bos(prompt), answer

    @property
    def eot_token_id(self) -> int:
        """What ends an answer."""
        if self.prompt_format is None:
            return int(self.tokenizer.eos_token_id)
        return int(self.tokenizer.convert_tokens_to_ids(self.prompt_format.end_text))

    @property
    def max_gen_toks(self) -> int:
        """Longest answer where the task does not say."""
        return min(256, self.max_length // 2)

    # lm-eval runs in silence (`benchmark.hushed`), but for these bars: a benchmark may take an hour.

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with heard():
            return super().loglikelihood(requests, disable_tqdm or not watched())

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with heard():
            return super().loglikelihood_rolling(requests, disable_tqdm or not watched())

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with heard():
            return super().generate_until(requests, disable_tqdm or not watched())


def watched() -> bool:
    return sys.__stderr__ is not None and sys.__stderr__.isatty()


def heard() -> contextlib.AbstractContextManager[Any]:
    """Progress reaches the terminal; what goes to a file or a pipe stays as silent as the rest."""
    return contextlib.redirect_stderr(sys.__stderr__) if watched() else contextlib.nullcontext()
