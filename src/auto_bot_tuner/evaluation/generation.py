"""Text in, text out: what people and other modules call. Tokens are made by `data/prompt_format.py`, chosen by
`engine.py`.

Two ways to ask. A *completion* goes on from raw text (`generate_text`, `batch_generate`); a *response* answers a
conversation that is written in the checkpoint's own chat template (`generate_response`, `stream_response`,
`respond`), so that the model sees exactly the ids that it saw in training.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import Generation, generate, stream

Messages = list[dict[str, str]]

# What a byte sequence that is no whole character decodes to (U+FFFD).
INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Response:
    """One answer."""

    text: str  # without the stop token
    ended: bool  # by a stop token; False: cut off by max_new_tokens or the context
    token_ids: list[int]  # with the stop token
    logprobs: list[float]  # of each of them, under the distribution sampled from; see engine.py


def generate_text(model: Any, tokenizer: Any, prompt: str, config: GenerationConfig | None = None) -> str:
    """What the model writes after `prompt` (the prompt itself is not repeated)."""
    return batch_generate(model, tokenizer, [prompt], config)[0]


def batch_generate(
    model: Any, tokenizer: Any, prompts: Sequence[str], config: GenerationConfig | None = None
) -> list[str]:
    """`generate_text` for many prompts at once, in order."""
    return [completion.text for completion in complete(model, tokenizer, prompts, config)]


def complete(
    model: Any, tokenizer: Any, prompts: Sequence[str], config: GenerationConfig | None = None
) -> list[Response]:
    """Completions of raw texts with their tokens and log-probabilities."""
    if not prompts:
        return []
    prompt_ids = [ids or start_of_text(tokenizer) for ids in tokenizer(list(prompts), verbose=False)["input_ids"]]
    stops = stop_tokens(model, (tokenizer.eos_token_id,))
    generations = generate(model, prompt_ids, config or GenerationConfig(), stops)
    return _responses(tokenizer, prompt_ids, generations)


def generate_response(
    model: Any, tokenizer: Any, messages_or_text: Messages | str, config: GenerationConfig | None = None
) -> str:
    """The assistant's answer to a conversation, or to one user message."""
    return respond(model, tokenizer, [as_messages(messages_or_text)], config)[0].text


def respond(
    model: Any, tokenizer: Any, conversations: Sequence[Messages], config: GenerationConfig | None = None
) -> list[Response]:
    """The assistant's next turn in each conversation (message lists that end with a user turn), in order."""
    prompt_format = PromptFormat.from_tokenizer(tokenizer)
    prompt_ids = prompt_format.encode_prompts(list(conversations))
    stops = stop_tokens(model, prompt_format.stop_token_ids)
    generations = generate(model, prompt_ids, config or GenerationConfig(), stops)
    return _responses(tokenizer, prompt_ids, generations)


def stream_response(
    model: Any, tokenizer: Any, messages_or_text: Messages | str, config: GenerationConfig | None = None
) -> Generator[str, None, bool]:
    """`generate_response` piece by piece, as it is written; the pieces joined are the same text.

    The generator's return value says whether the answer ended by itself (a stop token) or was cut off.
    """
    prompt_format = PromptFormat.from_tokenizer(tokenizer)
    prompt = prompt_format.encode_prompt(as_messages(messages_or_text))
    stops = stop_tokens(model, prompt_format.stop_token_ids)
    ended = False

    def spoken() -> Iterator[int]:
        nonlocal ended
        for token in stream(model, prompt, config or GenerationConfig(), stops):
            ended = token in stops
            if not ended:
                yield token

    yield from text_pieces(tokenizer, prompt, spoken())
    return ended


def as_messages(messages_or_text: Messages | str) -> Messages:
    if isinstance(messages_or_text, str):
        return [{"role": "user", "content": messages_or_text}]
    return messages_or_text


def stop_tokens(model: Any, prompt_format_stops: Iterable[int | None]) -> tuple[int, ...]:
    """The template's stop tokens, and those the model's own generation config names: some models end texts with another
    token than their tokenizer's `eos` (a story model that was trained to end at `<s>`, say)."""
    generation_config = getattr(model, "generation_config", None)
    named = getattr(generation_config, "eos_token_id", None)
    named = named if isinstance(named, (list, tuple)) else [named]
    return tuple(dict.fromkeys(token for token in (*prompt_format_stops, *named) if token is not None))


def start_of_text(tokenizer: Any) -> list[int]:
    """What an empty prompt goes on from: the token that stands between documents, where there is one."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if start is None else [start]


def text_pieces(tokenizer: Any, prompt: Sequence[int], new_tokens: Iterable[int]) -> Iterator[str]:
    """Decode token by token. Bytes of a character that is not yet whole are held back until it is."""
    context, pending = list(prompt), list[int]()
    for token in new_tokens:
        pending.append(token)
        piece = decode_continuation(tokenizer, context, pending)
        if piece and not piece.endswith(INCOMPLETE):
            yield piece
            context, pending = pending, []
    if pending:
        yield decode_continuation(tokenizer, context, pending)


def decode_continuation(tokenizer: Any, context: Sequence[int], token_ids: Sequence[int]) -> str:
    """The text that `token_ids` add after `context`.

    Decoded alone, a first token such as `▁Once` would lose its space: SentencePiece-type decoders take it for the
    start of a text. A few tokens of context are enough.
    """
    tail = list(context[-4:])
    before = _decode(tokenizer, tail)
    both = _decode(tokenizer, tail + list(token_ids))
    return both[len(before) :] if both.startswith(before) else _decode(tokenizer, token_ids)


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    # No "clean-up" of spaces before punctuation: a text must come back as it was written.
    return tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _responses(tokenizer: Any, prompts: Sequence[list[int]], generations: Sequence[Generation]) -> list[Response]:
    responses = []
    for prompt, generation in zip(prompts, generations, strict=True):
        spoken = generation.token_ids[:-1] if generation.ended else generation.token_ids
        text = decode_continuation(tokenizer, prompt, spoken)
        responses.append(Response(text, generation.ended, generation.token_ids, generation.logprobs))
    return responses
