"""The prompt format: conversations → token ids and the mask of what is trained, built together.

This is the one place where text meets tokens. Training, evaluation, chat and rollouts all ask this object, so a
prompt has the same ids everywhere; and because ids and mask are made from the same segments, the boundary
between prompt and answer cannot drift. Next station: `truncation.py`, then `sft/dataset.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from auto_bot_tuner.data import truncation
from auto_bot_tuner.data.chat_template import (
    USE_BUILT_IN,
    Conversation,
    ConversationError,
    choose_template,
    render,
)
from auto_bot_tuner.data.rows import no_search_for_cycles
from auto_bot_tuner.data.tokenization import MARK, Segment, SegmentTokenizer
from auto_bot_tuner.utils.errors import UserError


@dataclass
class Encoded:
    """One row as the model reads it, and what was cut from it to make it fit."""

    input_ids: list[int]  # (T,)
    trained: list[bool]  # (T,): the loss counts this token; position 0 never, as no logit predicts it
    segment_lengths: list[int]  # in tokens: prompt, answer, (text between turns, answer, …) rest
    dropped_turns: int = 0  # oldest turns left out
    cut_prompt: int = 0  # tokens cut from the start of the last prompt
    cut_response: int = 0  # tokens cut from the end of the answer: its end token is among them


@dataclass
class EncodedGroup:
    """One prompt with one or more responses, each side encoded as a whole conversation."""

    prompt: Conversation
    responses: list[Conversation]
    sides: list[Encoded]

    @property
    def prompt_length(self) -> int:
        """Leading tokens that all sides share: the prompt and the opened assistant turn, counted and not searched."""
        answers = sum(message["role"] == "assistant" for message in self.prompt)
        # Segments are [prompt, answer, text between turns, answer, …]: so many stand before the response.
        return min(sum(self.sides[0].segment_lengths[: 2 * answers + 1]), *(len(side.input_ids) for side in self.sides))

    def only(self, positions: list[int]) -> EncodedGroup:
        """The group with the responses at `positions` alone."""
        return EncodedGroup(self.prompt, [self.responses[k] for k in positions], [self.sides[k] for k in positions])

    def fits(self, max_length: int, max_prompt_length: int | None) -> bool:
        """Whether no side is longer than `max_length`, and the prompt not than its own limit."""
        longest = max(len(side.input_ids) for side in self.sides)
        return longest <= max_length and self.prompt_length <= (max_prompt_length or longest)

    def with_prompt(
        self, prompt_format: PromptFormat, prompt: Conversation, turns: int = 0, tokens: int = 0
    ) -> EncodedGroup:
        """The same responses to a prompt that has lost so many of its oldest turns and of its first tokens."""
        sides = prompt_format.encode_batch([prompt + response for response in self.responses])
        for new, old in zip(sides, self.sides, strict=True):
            new.dropped_turns, new.cut_prompt = old.dropped_turns + turns, old.cut_prompt + tokens
        return EncodedGroup(prompt, self.responses, sides)


class PromptFormat:
    """How messages become tokens for one tokenizer, and which tokens end an answer."""

    def __init__(self, tokenizer: Any, template: str):
        self.tokenizer = tokenizer
        self.template = template
        self.segment_tokenizer = SegmentTokenizer(tokenizer)
        self.tail = self._text_after_an_answer()
        self.end_of_turn = self._end_token_in(self.tail)
        # A template without an end token would train answers that never stop: then eos is put there.
        self.appends_eos = self.end_of_turn is None
        self.end_text: str = self.end_of_turn or tokenizer.eos_token
        if self.end_text is None:
            raise UserError(
                f"neither the chat template nor the tokenizer has a token that ends an answer: "
                f"set tokenizer.eos_token or use a template that writes one (not {USE_BUILT_IN})"
            )
        end_ids = [tokenizer.convert_tokens_to_ids(self.end_text), tokenizer.eos_token_id]
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys(i for i in end_ids if i is not None))

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, chat_template: str = "") -> PromptFormat:
        """The tokenizer's own template, else the built-in; `chat_template` ("builtin" or a file) forces one."""
        return cls(tokenizer, choose_template(tokenizer, chat_template))

    def install(self, tokenizer: Any) -> None:
        """Make the tokenizer carry this format, so that every save and every other tool uses it."""
        tokenizer.chat_template = self.template

    # --- messages → tokens --------------------------------------------------------------------------------------

    def encode(self, messages: Conversation, max_length: int | None = None) -> Encoded:
        """One conversation, every assistant turn and its end token trained; cut to `max_length` (rule 6)."""
        return self.encode_batch([messages], max_length)[0]

    def encode_batch(self, conversations: list[Conversation], max_length: int | None = None) -> list[Encoded]:
        """`encode` for many conversations by one tokenizer call.

        Raises `ConversationError` (with the position in the batch) where the template refuses a conversation or
        rewrites earlier turns.
        """
        with no_search_for_cycles():
            encoded = self._encode_segments(self._segments(conversations, open_turn=False))
        if max_length is None:
            return encoded
        return [
            row if len(row.input_ids) <= max_length else truncation.fit(self, messages, row, max_length)
            for messages, row in zip(conversations, encoded, strict=True)
        ]

    def encode_groups(
        self,
        groups: list[tuple[Conversation, list[Conversation]]],
        max_length: int | None = None,
        max_prompt_length: int | None = None,
    ) -> list[EncodedGroup]:
        """Prompts with their responses (turns that begin with the assistant's), by one tokenizer call.

        All sides of a group begin with the same `prompt_length` ids, also where they are cut.
        Raises `ConversationError` with the position of the *group*.
        """
        conversations = [(i, prompt + response) for i, (prompt, rs) in enumerate(groups) for response in rs]
        try:
            encoded = iter(self.encode_batch([conversation for _, conversation in conversations]))
        except ConversationError as error:
            raise ConversationError(conversations[error.index][0], error.reason) from error
        whole = [EncodedGroup(prompt, rs, [next(encoded) for _ in rs]) for prompt, rs in groups]
        if max_length is None:
            return whole
        return [
            group
            if group.fits(max_length, max_prompt_length)
            else truncation.fit_group(self, group, max_length, max_prompt_length)
            for group in whole
        ]

    def encode_prompt(self, messages: Conversation) -> list[int]:
        """Ids of a conversation that ends with a user turn, then the opened assistant turn."""
        return self.encode_prompts([messages])[0]

    def encode_prompts(self, conversations: list[Conversation]) -> list[list[int]]:
        """`encode_prompt` for many: exactly the ids that training has before the answer."""
        return [row.input_ids for row in self._encode_segments(self._segments(conversations, open_turn=True))]

    def encode_texts(self, texts: list[str], max_length: int | None = None) -> list[Encoded]:
        """Plain documents: BOS (the tokenizer's own), the text, EOS; all trained but the first token."""
        protected = [[Segment(self.segment_tokenizer.protect(text), True)] for text in texts]
        rows = self._encode_segments(protected)
        eos = self.tokenizer.eos_token_id
        for row in rows:
            row.input_ids += [] if eos is None else [eos]
            row.trained += [True] * (len(row.input_ids) - len(row.trained))
        return rows if max_length is None else [truncation.cut_end(row, max_length) for row in rows]

    # --- the parts ----------------------------------------------------------------------------------------------

    def _encode_segments(self, batch: list[list[Segment]]) -> list[Encoded]:
        rows = []
        for segments, ids in zip(batch, self.segment_tokenizer.encode(batch), strict=True):
            lengths = [len(part) for part in ids]
            input_ids = self.segment_tokenizer.with_bos(list(chain.from_iterable(ids)))
            added = len(input_ids) - sum(lengths)  # 1 where BOS was put in front
            trained = [False] * added
            for segment, length in zip(segments, lengths, strict=True):
                trained += [segment.trained] * length
            trained[:1] = [False]  # nothing stands before the first token, so nothing predicts it
            rows.append(Encoded(input_ids, trained, [lengths[0] + added, *lengths[1:]]))
        return rows

    def _segments(self, conversations: list[Conversation], open_turn: bool) -> list[list[Segment]]:
        """Cut each conversation's text at its assistant turns; where `open_turn`, end with an opened one.

        For every assistant turn k the template writes the messages before it with the turn opened, and the
        messages up to and with it. The first must be the beginning of the second, and the difference is the answer.
        """
        protect = self.segment_tokenizer.protect
        chats = [[{**message, "content": protect(message["content"])} for message in c] for c in conversations]
        turns = [(row, k) for row, chat in enumerate(chats) for k, m in enumerate(chat) if m["role"] == "assistant"]
        ends = [(row, len(chat)) for row, chat in enumerate(chats)] if open_turn else []
        opened = self._render(chats, turns + ends, open_turn=True)
        closed = self._render(chats, [(row, k + 1) for row, k in turns], open_turn=False)

        segments: list[list[Segment]] = [[] for _ in chats]
        whole = [""] * len(chats)  # what the template wrote up to the last assistant turn seen
        covered = [0] * len(chats)  # how much of it stands in segments
        for row, k in turns:
            prompt, answered = opened[row, k], closed[row, k + 1]
            if not (prompt.startswith(whole[row]) and answered.startswith(prompt)):
                raise self._rewriting(row, k)
            answer, rest = self._split_after_end(answered[len(prompt) :])
            segments[row] += [Segment(prompt[covered[row] :], False), Segment(answer, True)]
            whole[row], covered[row] = answered, len(answered) - len(rest)
        for row, chat in enumerate(chats):
            last = opened[row, len(chat)] if open_turn else whole[row]
            if not last.startswith(whole[row]):
                raise self._rewriting(row, len(chat))
            if not segments[row] and not open_turn:
                raise ConversationError(row, "the conversation has no assistant turn: there is nothing to learn")
            if open_turn or covered[row] < len(last):
                segments[row].append(Segment(last[covered[row] :], False))
        return segments

    def _render(
        self, chats: list[Conversation], places: list[tuple[int, int]], open_turn: bool
    ) -> dict[tuple[int, int], str]:
        """The text of the first `end` messages of chat `row`, for each place (row, end)."""
        try:
            texts = render(self.tokenizer, self.template, [chats[row][:end] for row, end in places], open_turn)
        except ConversationError as error:
            raise ConversationError(places[error.index][0], error.reason) from error
        return dict(zip(places, texts, strict=True))

    @staticmethod
    def _rewriting(row: int, turn: int) -> ConversationError:
        return ConversationError(
            row,
            f"the chat template rewrites what stands before message {turn} once that message is there, so "
            f"training and chat would see different tokens: use {USE_BUILT_IN}, a template that only appends, or one "
            "answer per row",
        )

    def _split_after_end(self, turn: str) -> tuple[str, str]:
        """An assistant turn as written → (trained: content and end token, what the template writes after them)."""
        if self.end_of_turn is not None:
            end = turn.rfind(self.end_of_turn) + len(self.end_of_turn)
            return turn[:end], turn[end:]
        end = len(turn) - len(self.tail) if turn.endswith(self.tail) else len(turn)
        return turn[:end] + self.end_text, turn[end:]

    def _text_after_an_answer(self) -> str:
        """What the template writes after an answer's content, found by a conversation whose answer is a mark."""
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
        (opened,) = render(self.tokenizer, self.template, [chat[:1]], open_turn=True)
        (plain,) = render(self.tokenizer, self.template, [chat[:1]], open_turn=False)
        (closed,) = render(self.tokenizer, self.template, [chat], open_turn=False)
        before, found, tail = closed.partition(MARK)
        if not found or not before.startswith(opened) or (opened == plain and before[len(opened) :].strip()):
            raise UserError(
                "the chat template does not open the assistant's turn as it writes it (add_generation_prompt), so chat "
                f"would start from other tokens than training: use {USE_BUILT_IN} or a template that does"
            )
        return tail

    def _end_token_in(self, tail: str) -> str | None:
        """The first control token in `tail`; added tokens count too, as some mark theirs as not special."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        texts = {text for text in (*self.segment_tokenizer.special_texts, *added) if text.strip() and text in tail}
        return min(texts, key=lambda text: (tail.index(text), -len(text)), default=None)
