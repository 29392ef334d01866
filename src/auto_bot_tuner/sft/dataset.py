"""Instruction rows → token ids and labels, unpadded: what `SFTTrainer` reads.

    raw row → formats.canonical → PromptFormat (ids and mask together, cut to max_length) → ds[i]

Labels are a copy of the ids with -100 wherever nothing is trained; only answers and the token that ends them
are. A row is not padded here: padding belongs to a batch (`training/batching.py`).
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from auto_bot_tuner.data import IGNORE_INDEX, cache
from auto_bot_tuner.data.chat_template import Conversation, ConversationError
from auto_bot_tuner.data.formats import canonical, drop_reason
from auto_bot_tuner.data.prompt_format import Encoded, PromptFormat
from auto_bot_tuner.data.rows import ROWS_PER_CALL, Rows, each_row, whereabouts
from auto_bot_tuner.data.sources import load_split, sampled
from auto_bot_tuner.data.summary import Cuts, DatasetSummary
from auto_bot_tuner.utils.errors import UserError


class InstructionDataset(Dataset[dict[str, torch.Tensor]]):
    """Rows of instructions and answers, tokenised at once and batched (or taken from the cache).

    Args:
        dataset: a `datasets.Dataset`, a list of dicts, or `Rows` from `data.sources`.
        tokenizer: its own chat template is used where it has one, else the built-in one.
        max_length: longest row in tokens; what is cut then is told in `data/truncation.py`.
        format_type: alpaca, chat, prompt_completion, text, or auto (recognised row by row).
        system_prompt: system message for rows that have none.
        train_on_prompt: train every token but the first, not the answers only.

    `ds[i]` → `input_ids`, `attention_mask`, `labels`: long tensors (T,), T the row's own length.
    Raises `UserError` in one line for data that cannot be understood, and where no row is left.
    """

    def __init__(
        self,
        dataset: Any,
        tokenizer: Any,
        max_length: int = 512,
        format_type: str = "alpaca",
        *,
        system_prompt: str = "",
        train_on_prompt: bool = False,
    ):
        self.tokenizer = tokenizer
        self.prompt_format = PromptFormat.from_tokenizer(tokenizer)
        self.train_on_prompt = train_on_prompt
        self.summary = DatasetSummary(formats={}, max_length=max_length)
        rows, self._origins = self._read(dataset, format_type, system_prompt)
        self._where = whereabouts(dataset)
        self._columns = self._tokenised(rows)
        self.rows = [rows[i] for i in self._columns["row"]]  # canonical, row i as it was before max_length
        # The tokens that end an answer, where there are answers: the trainer checks that they are trained.
        has_answers = any("messages" in row for row in self.rows)
        self.stop_token_ids = self.prompt_format.stop_token_ids if has_answers else ()
        self._count()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        index = range(len(self))[index]  # negative ones too; IndexError past the end, which ends a for loop
        here = slice(self._starts[index], self._starts[index] + self.lengths[index])
        input_ids = torch.from_numpy(self._columns["input_ids"][here].astype(np.int64))  # (T,)
        trained = torch.from_numpy(self._columns["trained"][here].copy())  # (T,)
        labels = input_ids.masked_fill(~trained, IGNORE_INDEX)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}

    def prompts(self, count: int) -> list[Conversation]:
        """The first `count` conversations without their last answer: prompts for sample generations."""
        chats = [row["messages"] for row in self.rows[:count] if "messages" in row]
        return [chat[: max(i for i, m in enumerate(chat) if m["role"] == "assistant")] for chat in chats]

    def cuts(self, index: int) -> Cuts:
        """What row `index` has lost to `max_length`."""
        return Cuts(*self._columns["cuts"][index].tolist())

    def where(self, index: int) -> str:
        """Where row `index` comes from, as a person finds it."""
        return str(self._where(self._origins[self._columns["row"][index]]))

    def uncut(self, index: int) -> Encoded:
        """Row `index` as it was before `max_length`."""
        return self._encode([self.rows[index]], None)[0]

    # --- rows → tokens ------------------------------------------------------------------------------------------

    def _read(self, dataset: Any, format_type: str, system_prompt: str) -> tuple[list[dict[str, Any]], list[int]]:
        """Canonical rows that have something to teach, and the position of each in `dataset`."""
        where = whereabouts(dataset)
        formats, reasons = Counter[str](), Counter[str]()
        rows, origins = [], []
        for index, raw in enumerate(each_row(dataset)):
            name, row = canonical(raw, format_type, where(index), system_prompt)
            formats[name] += 1
            if reason := drop_reason(row):
                reasons[reason] += 1
            else:
                rows.append(row)
                origins.append(index)
        self.summary.rows, self.summary.formats = formats.total(), dict(formats)
        self.summary.drop_reasons = dict(reasons)
        return rows, origins

    def _tokenised(self, rows: list[dict[str, Any]]) -> cache.Arrays:
        """Flat columns of all rows: `input_ids`, `trained` (N tokens), `lengths`, `row`, `cuts` (one per kept row)."""
        settings = [self.summary.max_length, self.train_on_prompt]
        return cache.tokenised(rows, self.prompt_format, settings, lambda: self._tokenise(rows))

    def _tokenise(self, rows: list[dict[str, Any]]) -> cache.Arrays:
        kept: list[tuple[int, Encoded]] = []
        for start in range(0, len(rows), ROWS_PER_CALL):
            batch = rows[start : start + ROWS_PER_CALL]
            try:
                encoded = self._encode(batch, self.summary.max_length)
            except ConversationError as error:
                where = self._where(self._origins[start + error.index])
                raise UserError(f"{where}: {error.reason}") from error
            kept += [(start + i, row) for i, row in enumerate(encoded) if any(row.trained)]
        return {
            "input_ids": np.fromiter(chain.from_iterable(row.input_ids for _, row in kept), dtype=np.int32),
            "trained": np.fromiter(chain.from_iterable(self._mask(row) for _, row in kept), dtype=bool),
            "lengths": np.array([len(row.input_ids) for _, row in kept], dtype=np.int32),
            "row": np.array([index for index, _ in kept], dtype=np.int64),
            "cuts": np.array([(r.dropped_turns, r.cut_prompt, r.cut_response) for _, r in kept]).reshape(-1, 3),
        }

    def _encode(self, rows: list[dict[str, Any]], max_length: int | None) -> list[Encoded]:
        """Conversations and plain texts by one tokenizer call each, in the order of `rows`."""
        chats = [i for i, row in enumerate(rows) if "messages" in row]
        texts = [i for i, row in enumerate(rows) if "text" in row]
        try:
            encoded = self.prompt_format.encode_batch([rows[i]["messages"] for i in chats], max_length)
        except ConversationError as error:
            raise ConversationError(chats[error.index], error.reason) from error
        encoded += self.prompt_format.encode_texts([rows[i]["text"] for i in texts], max_length)
        return [row for _, row in sorted(zip(chats + texts, encoded, strict=True), key=lambda pair: pair[0])]

    def _mask(self, row: Encoded) -> list[bool]:
        # Nothing stands before the first token, so nothing predicts it.
        return [False] + [True] * (len(row.trained) - 1) if self.train_on_prompt else row.trained

    def _count(self) -> None:
        """Lengths and counts; an error where no row is left."""
        columns, summary = self._columns, self.summary
        self.lengths: list[int] = columns["lengths"].tolist()
        self._starts = [0, *np.cumsum(columns["lengths"]).tolist()]
        running = np.concatenate([[0], np.cumsum(columns["trained"])])  # trained tokens before each position
        self.trained_tokens: list[int] = np.diff(running[self._starts]).tolist()
        summary.kept, summary.dropped = len(self), summary.rows - len(self)
        if no_room := summary.dropped - sum(summary.drop_reasons.values()):
            summary.drop_reasons["no room for an answer"] = no_room
        summary.cut_turns, summary.cut_prompts, summary.cut_responses = (columns["cuts"] > 0).sum(axis=0).tolist()
        summary.cut = int((columns["cuts"] > 0).any(axis=1).sum())
        summary.tokens, summary.trained_tokens = sum(self.lengths), sum(self.trained_tokens)
        summary.longest = max(self.lengths, default=0)
        if not len(self):
            reasons = (
                ", ".join(f"{count} {reason}" for reason, count in summary.drop_reasons.items()) or "no rows given"
            )
            raise UserError(
                f"no row is left to train on ({reasons}): give rows with an answer, or a max_length "
                f"larger than {summary.max_length}"
            )


def load_instruction_dataset(name: str, split: str = "train", max_samples: int | None = None) -> Rows:
    """Raw rows of a hub data set, a local file or folder, or a bundled name, for `InstructionDataset`.

    `max_samples` rows are drawn by a seeded lot, in the source's order. Raises `UserError` in one line.
    """
    return sampled(load_split(name, split), max_samples or 0)


def preview_formatted_sample(dataset: InstructionDataset, index: int) -> str:
    """Row `index` as the model reads it, with ⟦…⟧ around what is trained."""
    from auto_bot_tuner.data.viewer import token_view

    return token_view(dataset, index).plain
