"""Rows of any kind → prompts as the policy reads them: what PPO and GRPO answer.

    raw row → the conversation to answer → PromptFormat.encode_prompts → ds[i]

What `InstructionDataset` is for answers. Of a row that holds an answer only the question is read; the row itself stays
at hand (`ds.row(i)`), for a verifier wants to know what was right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from auto_bot_tuner.data.chat_template import Conversation, ConversationError
from auto_bot_tuner.data.formats import recognise, text_in
from auto_bot_tuner.data.preferences import read_preference, recognise_preference
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.data.rows import ROWS_PER_CALL, each_row, whereabouts
from auto_bot_tuner.data.summary import DatasetSummary
from auto_bot_tuner.evaluation.reference import question
from auto_bot_tuner.utils.errors import UserError

TOO_LONG = "longer than max_length"


@dataclass
class PromptSummary(DatasetSummary):
    """What became of the rows: kept or dropped. A prompt is never cut, and nothing in it is trained."""

    unit: str = "prompts"

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.drop_reasons.items())
        mean = self.tokens / max(self.kept, 1)
        return "\n".join(
            [
                f"format   {', '.join(f'{name} ({count:,} rows)' for name, count in self.formats.items())}",
                f"prompts  {self.kept:,} of {self.rows:,} rows",
                f"lengths  mean {mean:.0f}, longest {self.longest:,} tokens (max_length {self.max_length:,})",
                f"dropped  {self.dropped:,} rows{f' ({reasons})' if reasons else ''}",
            ]
        )


class PromptDataset(Dataset[dict[str, torch.Tensor]]):
    """Prompts, tokenised at once and batched.

    Args:
        dataset: a `datasets.Dataset`, a list of dicts, or `Rows` from `data.sources`; rows are instructions, chats (all
            before the last assistant turn is the prompt), preferences, questions with answers, or prompts alone.
        tokenizer: the policy's; its own chat template is used where it has one, else the built-in one.
        max_length: longest prompt in tokens, the opened assistant turn included. A longer one is dropped, for what is
            left of a cut question is another question, and its reference answer would be wrong.
        system_prompt: system message for prompts that have none.

    `ds[i]` → `input_ids`, `attention_mask`: long tensors (P,), P the prompt's own length.
    Raises `UserError` in one line for rows that ask nothing, and where no prompt is left.
    """

    def __init__(self, dataset: Any, tokenizer: Any, max_length: int = 512, *, system_prompt: str = ""):
        self.tokenizer = tokenizer
        self.prompt_format = PromptFormat.from_tokenizer(tokenizer)
        self.stop_token_ids = self.prompt_format.stop_token_ids
        self.summary = PromptSummary(formats={}, max_length=max_length)
        self._dataset, self._where = dataset, whereabouts(dataset)
        asked = self._read(system_prompt)
        self._tokenise(asked)
        if not len(self):
            raise UserError(f"no prompt is left to answer ({self._reasons()}): {self._cure()}")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        index = range(len(self))[index]  # negative ones too; IndexError past the end, which ends a for loop
        ids = self._ids[self._starts[index] : self._starts[index + 1]].astype(np.int64)
        input_ids = torch.from_numpy(ids)  # (P,)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def conversation(self, index: int) -> Conversation:
        """Prompt `index` as messages; the last of them is the user's."""
        return self._conversations[index]

    def row(self, index: int) -> Mapping[str, Any]:
        """The data set's own row that prompt `index` comes from, reference answer and all."""
        row: Mapping[str, Any] = self._dataset[self._origins[index]]
        return row

    def where(self, index: int) -> str:
        """Where prompt `index` comes from, as a person finds it."""
        return self._where(self._origins[index])

    def prompts(self, count: int) -> list[Conversation]:
        """The first `count` different prompts, for sample generations."""
        found: list[Conversation] = []
        for conversation in self._conversations:
            if len(found) == count:
                break
            if conversation not in found:
                found.append(conversation)
        return found

    # --- rows → tokens ------------------------------------------------------------------------------------------

    def _read(self, system_prompt: str) -> list[tuple[int, Conversation]]:
        """(position in the data set, conversation) of the rows that ask something; others are counted by reason."""
        formats, reasons = Counter[str](), Counter[str]()
        asked = []
        for index, row in enumerate(each_row(self._dataset)):
            name, conversation = read_prompt(row, self._where(index))
            formats[name] += 1
            if not conversation:
                reasons["no shared prompt"] += 1
            elif not conversation[-1]["content"].strip():
                reasons["empty prompt"] += 1
            else:
                if system_prompt and conversation[0]["role"] != "system":
                    conversation = [{"role": "system", "content": system_prompt}, *conversation]
                asked.append((index, conversation))
        self.summary.rows, self.summary.formats = formats.total(), dict(formats)
        self.summary.drop_reasons = dict(reasons)
        return asked

    def _tokenise(self, asked: list[tuple[int, Conversation]]) -> None:
        """Ids of all prompts one after the other, the lengths that find them again, and the counts."""
        parts, self._origins, self._conversations = [np.array([], dtype=np.int32)], list[int](), list[Conversation]()
        self.lengths: list[int] = []
        for start in range(0, len(asked), ROWS_PER_CALL):
            batch = asked[start : start + ROWS_PER_CALL]
            try:
                encoded = self.prompt_format.encode_prompts([conversation for _, conversation in batch])
            except ConversationError as error:
                raise UserError(f"{self._where(batch[error.index][0])}: {error.reason}") from error
            for (origin, conversation), ids in zip(batch, encoded, strict=True):
                if len(ids) <= self.summary.max_length:
                    parts.append(np.array(ids, dtype=np.int32))
                    self._origins.append(origin)
                    self._conversations.append(conversation)
                    self.lengths.append(len(ids))
        self._ids = np.concatenate(parts)
        self._starts = [0, *np.cumsum(self.lengths, dtype=np.int64).tolist()]
        summary = self.summary
        summary.kept, summary.dropped = len(self), summary.rows - len(self)
        if too_long := len(asked) - len(self):
            summary.drop_reasons[TOO_LONG] = too_long
        summary.tokens, summary.longest = sum(self.lengths), max(self.lengths, default=0)

    def _reasons(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.summary.drop_reasons.items()) or "no rows given"

    def _cure(self) -> str:
        if TOO_LONG in self.summary.drop_reasons:
            return f"raise --max-length, which is {self.summary.max_length} tokens"
        return "give rows with a prompt, question, instruction or messages"


def read_prompt(row: Any, where: str) -> tuple[str, Conversation]:
    """(format name, the conversation to answer) of one raw row; empty where the two sides of a pair share no turn.

    Raises:
        UserError: the row asks nothing, or in a way that cannot be understood; the message says where.
    """
    known, preference = None, None
    if isinstance(row, Mapping):
        known, preference = recognise(row), recognise_preference(row)
    if preference and known in (None, "text"):
        name, read = read_preference(row, where)
        return name, read.prompt
    conversation = question(row, where)
    for message in conversation:
        text_in(message, "content", where)  # half a surrogate pair is no text, and no tokenizer takes it
    return known or ("question" if "question" in row else "prompt"), conversation
