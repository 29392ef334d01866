"""The one generation engine: rollouts, evaluation and chat all write their text here.

Prompts of similar length share a batch. They are padded on the *left*, so that the newest token of every row stands
in the last column; each row counts its own positions, and a mask hides the padding. Padding exists nowhere outside
this file.

    prefill     one forward pass over the prompts; the keys and values of its tokens are kept (the cache)
    repeat      a prompt that is sampled several times was computed once: its cache rows are copied
    decode      each step feeds one token per row; a row that is finished leaves the batch, cache and all

The log-probabilities that come back are those of the distribution sampled from, in float32: softmax(logits /
temperature), and with top-k or top-p the filtered, renormalised one, which no longer is the policy's (reinforcement
learning must not use it). Greedy decoding reports the model's own at temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.kv_cache import new_cache
from auto_bot_tuner.evaluation.sampling import draw, next_token_logprobs, penalise_repetition, uniform_stream
from auto_bot_tuner.evaluation.weight_layout import laid_out_for_few_rows
from auto_bot_tuner.utils.errors import UserError


@dataclass
class Generation:
    """What was written after one prompt. `token_ids` and `logprobs` have the same length."""

    token_ids: list[int] = field(default_factory=list)  # the stop token, if it came, is the last
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False  # by a stop token, not by running out of room


class Token(NamedTuple):
    """One new token of one text."""

    text: int  # which text: prompt number x samples per prompt + sample number
    token_id: int
    logprob: float


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    stop_token_ids: Sequence[int],
    samples_per_prompt: int = 1,
    noise_keys: Sequence[tuple[int, ...]] | None = None,
) -> list[Generation]:
    """`samples_per_prompt` texts for each prompt (token ids), prompt by prompt.

    The noise of a text is a function of (seed, *key, sample number), where key is its prompt's of `noise_keys`, else
    the prompt's number in this call: a text does not depend on which prompts it shares a call or a process with.

    Raises UserError for a prompt that is empty or leaves no room in the model's context, and for a model whose logits
    are not finite. A text ends at its first stop token (kept), after `max_new_tokens`, or where the context is full.
    """
    for number, prompt in enumerate(prompts):
        _check_room(model, prompt, f"prompt {number}")
    generations = [Generation() for _ in range(len(prompts) * samples_per_prompt)]
    stops = frozenset(stop_token_ids)
    with laid_out_for_few_rows(model):
        for numbers in _batches([len(prompt) for prompt in prompts], config, samples_per_prompt):
            keys = {i: (i,) if noise_keys is None else noise_keys[i] for i in numbers}
            for tokens in _decode(model, {i: prompts[i] for i in numbers}, config, stops, samples_per_prompt, keys):
                for text, token_id, logprob in tokens:
                    generations[text].token_ids.append(token_id)
                    generations[text].logprobs.append(logprob)
                    generations[text].ended = token_id in stops
    return generations


def stream(model: Any, prompt: list[int], config: GenerationConfig, stop_token_ids: Sequence[int]) -> Iterator[int]:
    """The same text as `generate` gives for this prompt alone, token by token as it is written."""
    _check_room(model, prompt, "the prompt")
    for tokens in _decode(model, {0: prompt}, config, frozenset(stop_token_ids), 1, {0: (0,)}):
        yield tokens[0].token_id


def context_limit(model: Any) -> int | None:
    """How many tokens the model can look at, where its config says so."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit is not None else None


def _batches(lengths: list[int], config: GenerationConfig, samples_per_prompt: int) -> Iterator[list[int]]:
    """Prompt numbers, sorted by length and cut by the token budget. One prompt's samples always stay together."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        rows = (len(batch) + 1) * samples_per_prompt
        if batch and rows * (lengths[number] + config.max_new_tokens) > config.batch_tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Dropout off; afterwards every module is as it was (a frozen part may have been in evaluation mode all along).

    It also takes care of gradient checkpointing, which drops the cache, but only in training mode.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Rows:
    """The texts that are still being written: one row of the batch each."""

    def __init__(
        self,
        model: Any,
        prompts: dict[int, list[int]],
        config: GenerationConfig,
        samples: int,
        keys: dict[int, tuple[int, ...]],
    ) -> None:
        pairs = [(number, sample) for number in prompts for sample in range(samples)]
        lengths = [len(prompts[number]) for number, _ in pairs]
        limit = context_limit(model) or math.inf
        self.config, self.device = config, model.device
        self.step = 0
        self.texts = [number * samples + sample for number, sample in pairs]
        self.budgets = [int(min(config.max_new_tokens, limit - length)) for length in lengths]  # new tokens at most
        self.positions = torch.tensor(lengths, device=self.device)  # (B,): where the next token of each row stands
        uniforms = [
            uniform_stream((config.seed, *keys[number], sample), config.max_new_tokens) for number, sample in pairs
        ]
        self.uniforms = torch.stack(uniforms).to(self.device)  # (B, max_new_tokens)
        self.seen: torch.Tensor | None = None
        if config.repetition_penalty != 1:
            vocabulary = model.config.get_text_config().vocab_size
            self.seen = torch.zeros(len(pairs), vocabulary, dtype=torch.bool, device=self.device)  # (B, V)
            for row, (number, _) in enumerate(pairs):
                self.seen[row, prompts[number]] = True

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, list[Token]]:
        """The next token of every row from its `(B, V)` logits."""
        logits = logits.float()
        if self.seen is not None:
            logits = penalise_repetition(logits, self.seen, self.config.repetition_penalty)
        logprobs = next_token_logprobs(logits, self.config)
        if not logprobs.amax(dim=-1).isfinite().all():
            raise UserError("the model's logits are not finite (NaN or infinite weights?): load an earlier checkpoint")
        is_greedy = self.config.temperature == 0
        chosen = logits.argmax(dim=-1) if is_greedy else draw(logprobs, self.uniforms[:, self.step])  # (B,)
        if self.seen is not None:
            self.seen.scatter_(1, chosen[:, None], True)
        chosen_logprobs = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        self.step += 1
        return chosen, [Token(*token) for token in zip(self.texts, chosen.tolist(), chosen_logprobs, strict=True)]

    def unfinished(self, tokens: list[Token], stops: frozenset[int]) -> list[int]:
        """Rows that go on; the last ones move into the gaps of finished ones, so that few cache rows are copied."""
        going = [
            row for row, token in enumerate(tokens) if token.token_id not in stops and self.step < self.budgets[row]
        ]
        staying, movers = set(going), reversed(going)
        return [row if row in staying else next(movers) for row in range(len(going))]

    def select(self, rows: list[int]) -> torch.Tensor:
        """Keep these rows, in this order; returns them as an index for the caller's own tensors."""
        keep = torch.tensor(rows, device=self.device)
        self.texts, self.budgets = [self.texts[row] for row in rows], [self.budgets[row] for row in rows]
        self.positions, self.uniforms = self.positions[keep], self.uniforms[keep]
        if self.seen is not None:
            self.seen = self.seen[keep]
        return keep


@torch.no_grad()  # as a decorator it is lifted at each `yield`: the caller's own mode is not touched
def _decode(
    model: Any,
    prompts: dict[int, list[int]],
    config: GenerationConfig,
    stops: frozenset[int],
    samples: int,
    keys: dict[int, tuple[int, ...]],
) -> Iterator[list[Token]]:
    """The core loop: yields one new token of every unfinished text, step by step."""
    with evaluation_mode(model):
        input_ids, mask = _left_padded(list(prompts.values()), model.device)  # (B, P) each
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)  # 0 at a row's first real token, whatever stands before it
        cache = new_cache(model)
        logits = _forward(model, input_ids, mask, positions, cache)
        rows = _Rows(model, prompts, config, samples, keys)
        if samples > 1:
            cache.batch_repeat_interleave(samples)
            logits, mask = logits.repeat_interleave(samples, dim=0), mask.repeat_interleave(samples, dim=0)
        while True:
            chosen, tokens = rows.choose(logits)
            yield tokens
            going = rows.unfinished(tokens, stops)
            if not going:
                return
            if len(going) < len(tokens):
                keep = rows.select(going)
                cache.batch_select_indices(keep)
                chosen, mask = chosen[keep], mask[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
            logits = _forward(model, chosen[:, None], mask, rows.positions[:, None], cache)
            rows.positions = rows.positions + 1


def _forward(
    model: Any, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """`(B, V)` logits of the last column only: the head is a small model's widest matrix."""
    outputs = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return outputs.logits[:, -1]


def _left_padded(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, P)` ids and mask. The mask comes from lengths; the id in the padding is arbitrary: it is never seen."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _check_room(model: Any, prompt: list[int], name: str) -> None:
    limit = context_limit(model)
    if not prompt:
        raise UserError(f"{name} holds no token: a model needs at least one to go on from")
    if limit is not None and len(prompt) >= limit:
        raise UserError(
            f"{name} has {len(prompt)} tokens and the model's context is {limit}: no room for an answer; shorten it"
        )
