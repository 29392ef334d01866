"""Text segments → token ids, segment by segment, with one tokenizer call for a whole batch.

Segments are tokenised apart and concatenated, never located afterwards by searching: then the prompt's ids are
the same whether an answer follows (training) or is yet to be written (chat, rollouts). Tokenising the
whole text at once would let a merge reach over the boundary, e.g. "\\n" + "\\n" → "\\n\\n".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

from auto_bot_tuner.data.chat_template import own_bos
from auto_bot_tuner.utils.errors import UserError


class Segment(NamedTuple):
    """A stretch of text that is trained as a whole or not at all."""

    text: str
    trained: bool


class Piece(NamedTuple):
    """Text for one tokenizer pass: standard, continued (no word-start prefix) or literal (no special tokens)."""

    text: str
    kind: str


# Content is data: a row that *talks about* "<|endoftext|>" must not end the sequence. Such texts travel through
# the template as numbers between private-use marks that no real text holds, and are tokenised letter by letter.
MARK = "\U000f1d07"
MARKED = re.compile(f"{MARK}(\\d+){MARK}")


class SegmentTokenizer:
    """A tokenizer as the data layer needs it: batched, BOS at most once, control tokens only from the template."""

    def __init__(self, tokenizer: Any):
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("this tokenizer has no fast (tokenizer.json) version: convert it with AutoTokenizer first")
        self.tokenizer = tokenizer
        added = list(tokenizer.added_tokens_decoder.values())
        self.special_texts = sorted({*tokenizer.all_special_tokens, *(t.content for t in added if t.special)})
        longest_first = sorted(self.special_texts, key=len, reverse=True)
        self.special_pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self.rstrip_texts = tuple(t.content for t in added if t.rstrip)
        self.bos = own_bos(tokenizer)
        self.continuation, self.prefix_scheme = _without_word_start_prefix(tokenizer)

    def with_bos(self, ids: list[int]) -> list[int]:
        """`ids` with the tokenizer's own BOS in front, unless the template has written it already."""
        return ids if not self.bos or ids[:1] == self.bos else self.bos + ids

    def protect(self, content: str) -> str:
        """`content` with every text of a special token replaced by its number between marks."""
        return self.special_pattern.sub(
            lambda match: f"{MARK}{self.special_texts.index(match[0])}{MARK}", content.replace(MARK, "")
        )

    def encode(self, batch: list[list[Segment]]) -> list[list[list[int]]]:
        """Token ids of every segment of every conversation; each distinct text is tokenised once."""
        plan = [[self._pieces(segments, i) for i in range(len(segments))] for segments in batch]
        ids = self._tokenise(dict.fromkeys(piece for rows in plan for pieces in rows for piece in pieces))
        return [[list(chain.from_iterable(ids[piece] for piece in pieces)) for pieces in rows] for rows in plan]

    def _pieces(self, segments: list[Segment], index: int) -> list[Piece]:
        text = segments[index].text
        before = segments[index - 1].text if index else ""
        if self.rstrip_texts and before.endswith(self.rstrip_texts):
            text = text.lstrip()  # such a token swallows the white space after it (Phi-3)
        if self.continuation is None and MARK not in text:  # nearly always
            return [Piece(text, "standard")] if text else []
        after_special = before.endswith(tuple(self.special_texts))
        continues = bool(before) and (not after_special or self.prefix_scheme == "first")
        pieces: list[Piece] = []
        for position, part in enumerate(MARKED.split(text)):
            if position % 2:  # the number of a protected text
                # In two pieces: some vocabularies hold the control token's text as an ordinary word as well.
                special = self.special_texts[int(part)]
                pieces += [Piece(text, "literal") for text in (special[:1], special[1:]) if text]
            elif part:
                pieces += self._plain(part, continues or position > 0)
        return pieces

    def _plain(self, text: str, continues: bool) -> Iterable[Piece]:
        if not continues or self.continuation is None:
            yield Piece(text, "standard")
            return
        # Word-start prefixes: after a special token the tokenizer begins anew and prefixes again ("always"), or not.
        special = self.special_pattern.search(text) if self.prefix_scheme == "always" else None
        end = special.start() if special else len(text)
        yield from (Piece(text[:end], "continued"),) if end else ()
        yield from (Piece(text[end:], "standard"),) if end < len(text) else ()

    def _tokenise(self, pieces: Iterable[Piece]) -> dict[Piece, list[int]]:
        """One call per kind of piece; nearly always that is one call.

        The backend is asked directly, without offsets or other by-work: transformers would write a dict per text.
        """
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # over-long texts are our own business (truncation.py)
        backend.no_padding()
        ids: dict[Piece, list[int]] = {}
        for kind in ("standard", "continued", "literal"):
            of_kind = [piece for piece in pieces if piece.kind == kind]
            if not of_kind:
                continue
            engine = backend if kind == "standard" or self.continuation is None else self.continuation
            engine.encode_special_tokens = kind == "literal"
            encoded = engine.encode_batch_fast([piece.text for piece in of_kind], add_special_tokens=False)
            ids.update(zip(of_kind, (encoding.ids for encoding in encoded), strict=True))
        return ids


def _without_word_start_prefix(tokenizer: Any) -> tuple[Any, str]:
    """A twin of the tokenizer that puts no "▁" (word start) before a text, and when the original does.

    SentencePiece-like tokenizers put a space before every text. An answer that follows "### Response:\\n" starts no
    text: with that space, training would differ from what every other tool feeds the model. None where no
    prefix is added (GPT-2, Llama-3, Qwen): there the standard pass is right for every segment.
    """
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    stages = {"normalizer": backend.normalizer, "pre_tokenizer": backend.pre_tokenizer}
    states = {name: json.loads(stage.__getstate__()) for name, stage in stages.items() if stage is not None}
    scheme = ""
    for state in states.values():
        for step in state.get("normalizers", state.get("pretokenizers", [state])):
            if step["type"] == "Prepend":
                step["prepend"], scheme = "", "always"
            elif step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
                step["prepend_scheme"], scheme = "never", step.get("prepend_scheme", "always")
            elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
                step["add_prefix_space"], scheme = False, "always"
    if not scheme:
        return None, ""
    return Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), **states})), scheme
