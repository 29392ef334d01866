"""Preference rows → token ids and labels of whole groups: one prompt with the responses that are compared.

    raw row → preferences.read_preference → grouping (pairs, rankings …) → PromptFormat.encode_groups → ds.group(i)

What `InstructionDataset` is for single answers. The prompt's tokens are stored once: all sides of a group begin with
exactly the same ids, so a model may read them once too (`training/flat.py`).
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from auto_bot_tuner.data import IGNORE_INDEX, cache
from auto_bot_tuner.data.chat_template import Conversation, ConversationError
from auto_bot_tuner.data.grouping import Grouped, Kind, group_responses
from auto_bot_tuner.data.preferences import drop_reason, read_preference
from auto_bot_tuner.data.prompt_format import EncodedGroup, PromptFormat
from auto_bot_tuner.data.rows import ROWS_PER_CALL, each_row, whereabouts
from auto_bot_tuner.data.summary import Cuts, DatasetSummary
from auto_bot_tuner.utils.errors import UserError

# Why nothing may be left, and what helps.
CURES = {
    "one response only": "a response is compared with others to the same prompt; learn scores by themselves with "
    "train-reward --objective scores",
    "no shared prompt": "the conversations of a row must begin with the same turns, or give a column prompt",
    "no room for a response": "raise --max-length, or lower --max-prompt-length",
    "equal after truncation": "raise --max-length: the responses differ only behind it",
}
UNITS: dict[Kind, str] = {"pairs": "pairs", "rankings": "rankings", "scores": "groups", "unpaired": "answers"}


class Group(NamedTuple):
    """One prompt with K responses, as a loss compares them."""

    input_ids: list[torch.Tensor]  # K of (T_k,): prompt and response k
    labels: list[torch.Tensor]  # K of (T_k,): -100 where not trained: the prompt, and user turns inside a response
    prompt_length: int  # leading tokens that all K share, exactly
    scores: list[float]  # the data's numbers, nan where it has none. Unpaired: 1 is good, 0 is bad


class ResponseGroups(Dataset[dict[str, Any]]):
    """Prompts with their responses, tokenised at once and batched (or taken from the cache).

    Args:
        dataset: a `datasets.Dataset`, a list of dicts, or `Rows` from `data.sources`.
        tokenizer: its own chat template is used where it has one, else the built-in one.
        max_length: longest side (prompt and response) in tokens; what is cut then is told in `data/truncation.py`.
        kind: what a group is, see `data/grouping.py`.
        max_prompt_length: longest prompt in tokens; None or 0: `max_length` alone decides.
        system_prompt: system message for prompts that have none.

    `ds.group(i)` → `Group`. `ds[i]` → the same as a dict: for pairs `chosen_input_ids`, `chosen_attention_mask`,
    `chosen_labels`, `rejected_…` (long tensors (T,)) and `prompt_length` (1,); else lists of K tensors.
    Raises `UserError` in one line for data that cannot be understood, and where nothing is left to compare.
    """

    def __init__(
        self,
        dataset: Any,
        tokenizer: Any,
        max_length: int = 512,
        *,
        kind: Kind = "pairs",
        max_prompt_length: int | None = None,
        system_prompt: str = "",
    ):
        self.tokenizer = tokenizer
        self.prompt_format = PromptFormat.from_tokenizer(tokenizer)
        self.stop_token_ids = self.prompt_format.stop_token_ids
        self.kind = kind
        self.max_prompt_length = max_prompt_length or None
        self.summary = DatasetSummary(formats={}, max_length=max_length, unit=UNITS[kind])
        self._where = whereabouts(dataset)
        groups = self._read(dataset, system_prompt)
        settings = ["groups", kind, max_length, self.max_prompt_length]
        self._columns = cache.tokenised(groups, self.prompt_format, settings, lambda: self._tokenise(groups))
        self._count(groups)

    def __len__(self) -> int:
        return len(self.lengths)

    def group(self, index: int) -> Group:
        """Prompt and responses of group `index`, unpadded."""
        index = range(len(self))[index]  # negative ones too; IndexError past the end, which ends a for loop
        columns, shared = self._columns, int(self._columns["prompt_lengths"][index])
        position = self._starts[index]
        prompt = slice(position, position + shared)
        position += shared
        ids, labels = [], []
        sides = range(self._first_side[index], self._first_side[index + 1])
        for side in sides:
            own = slice(position, position + int(columns["response_lengths"][side]))
            position = own.stop
            input_ids = np.concatenate([columns["input_ids"][prompt], columns["input_ids"][own]]).astype(np.int64)
            trained = np.concatenate([np.zeros(shared, dtype=bool), columns["trained"][own]])
            ids.append(torch.from_numpy(input_ids))  # (T_k,)
            labels.append(ids[-1].masked_fill(torch.from_numpy(~trained), IGNORE_INDEX))  # (T_k,)
        return Group(ids, labels, shared, columns["scores"][sides.start : sides.stop].tolist())

    def __getitem__(self, index: int) -> dict[str, Any]:
        group = self.group(index)
        masks = [torch.ones_like(ids) for ids in group.input_ids]
        item: dict[str, Any] = {"prompt_length": torch.tensor([group.prompt_length])}
        if self.kind == "pairs":
            for side, name in enumerate(("chosen", "rejected")):
                item[f"{name}_input_ids"] = group.input_ids[side]
                item[f"{name}_attention_mask"] = masks[side]
                item[f"{name}_labels"] = group.labels[side]
            return item
        scores = torch.tensor(group.scores)
        return item | {"input_ids": group.input_ids, "attention_mask": masks, "labels": group.labels, "scores": scores}

    def prompts(self, count: int) -> list[Conversation]:
        """The first `count` different prompts, for sample generations."""
        found: list[Conversation] = []
        for row in self.rows:
            if len(found) == count:
                break
            if row.prompt not in found:
                found.append(row.prompt)
        return found

    def category(self, index: int) -> str:
        """The category that the data gives group `index`, else empty."""
        return self.rows[index].category

    def cuts(self, index: int) -> list[Cuts]:
        """What each side of group `index` has lost to `max_length`; the prompt's losses are the same for all."""
        index = range(len(self))[index]
        sides = self._columns["cuts"][self._first_side[index] : self._first_side[index + 1]]
        return [Cuts(*side) for side in sides.tolist()]

    def where(self, index: int) -> str:
        """Where group `index` comes from, as a person finds it."""
        return self._where(self.rows[index].origin)

    def uncut(self, index: int) -> EncodedGroup:
        """Group `index` as it was before `max_length`."""
        row = self.rows[index]
        return self.prompt_format.encode_groups([(row.prompt, row.responses)])[0]

    # --- rows → tokens ------------------------------------------------------------------------------------------

    def _read(self, dataset: Any, system_prompt: str) -> list[Grouped]:
        """Groups that compare something; what is left out is counted by reason."""
        formats, reasons = Counter[str](), Counter[str]()
        preferences = []
        for index, raw in enumerate(each_row(dataset)):
            name, preference = read_preference(raw, self._where(index), system_prompt)
            formats[name] += 1
            if reason := drop_reason(preference):
                reasons[reason] += 1
            else:
                preferences.append((index, preference))
        groups, incomparable = group_responses(preferences, self.kind, self._where)
        self.summary.rows, self.summary.formats = formats.total(), dict(formats)
        self.summary.drop_reasons = dict(reasons + incomparable)
        return groups

    def _tokenise(self, groups: list[Grouped]) -> cache.Arrays:
        """Flat columns of the groups that are left.

        Per token: `input_ids`, `trained`; of a group first the prompt's, then each response's own. Per group: `row`,
        `prompt_lengths`, `sides`. Per side: `response` (its position in the row), `response_lengths`, `scores`,
        `cuts`. `lost`: groups without room for a response, and with equal ones.
        """
        kept: list[tuple[int, list[int]]] = []
        lost = [0, 0]
        parts = [_flat([])]  # as arrays, call by call: lists of Python's integers take ten times the memory
        for start in range(0, len(groups), ROWS_PER_CALL):
            batch = [(group.prompt, group.responses) for group in groups[start : start + ROWS_PER_CALL]]
            try:
                encoded = self.prompt_format.encode_groups(batch, self.summary.max_length, self.max_prompt_length)
            except ConversationError as error:
                raise UserError(f"{self._where(groups[start + error.index].origin)}: {error.reason}") from error
            of_call: list[EncodedGroup] = []
            for row, group in enumerate(encoded, start):
                room = [k for k, side in enumerate(group.sides) if any(side.trained)]
                left = room if self.least == 1 else _different(group, room)
                if len(left) >= self.least:
                    kept.append((row, left))
                    of_call.append(group.only(left))
                else:
                    lost[len(room) >= self.least] += 1
            parts.append(_flat(of_call))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        numbers = [groups[row].scores[k] for row, left in kept for k in left]
        return columns | {
            "row": np.array([row for row, _ in kept], dtype=np.int64),
            "response": np.array([k for _, left in kept for k in left], dtype=np.int32),
            "scores": np.array(numbers, dtype=np.float64),
            "lost": np.array(lost, dtype=np.int64),
        }

    @property
    def least(self) -> int:
        """The fewest responses that a group compares."""
        return 2 if self.kind in ("pairs", "rankings") else 1

    def _count(self, groups: list[Grouped]) -> None:
        """Lengths and counts; an error where no group is left."""
        columns, summary = self._columns, self.summary
        self._first_side = [0, *np.cumsum(columns["sides"]).tolist()]
        own = np.concatenate([[0], np.cumsum(columns["response_lengths"])])  # tokens of responses before each side
        lengths = columns["prompt_lengths"] + np.diff(own[self._first_side])
        self.lengths: list[int] = lengths.tolist()  # tokens of a group whose prompt is read once
        self._starts = [0, *np.cumsum(lengths).tolist()]
        running = np.concatenate([[0], np.cumsum(columns["trained"])])  # trained tokens before each position
        self.trained_tokens: list[int] = np.diff(running[self._starts]).tolist()
        # Group i as it was before max_length, with the responses that are left of it.
        self.rows = []
        for i, row in enumerate(columns["row"].tolist()):
            left = columns["response"][self._first_side[i] : self._first_side[i + 1]].tolist()
            self.rows.append(groups[row]._replace(responses=[groups[row].responses[k] for k in left]))
        for reason, count in zip(("no room for a response", "equal after truncation"), columns["lost"], strict=True):
            if count:
                summary.drop_reasons[reason] = int(count)
        summary.kept, summary.dropped = len(self), sum(summary.drop_reasons.values())
        # A group is cut where any of its sides is.
        cut = np.array([(columns["cuts"][a:b] > 0).any(axis=0) for a, b in pairwise(self._first_side)]).reshape(-1, 3)
        summary.cut_turns, summary.cut_prompts, summary.cut_responses = cut.sum(axis=0).tolist()
        summary.cut = int(cut.any(axis=1).sum())
        summary.tokens, summary.trained_tokens = sum(self.lengths), sum(self.trained_tokens)
        of_sides = np.repeat(columns["prompt_lengths"], columns["sides"]) + columns["response_lengths"]
        summary.longest = int(of_sides.max(initial=0))
        if not len(self):
            reasons = (
                ", ".join(f"{count} {reason}" for reason, count in summary.drop_reasons.items()) or "no rows given"
            )
            raise UserError(f"no {summary.unit} are left to learn from ({reasons}): {cure(summary.drop_reasons)}")


def cure(drop_reasons: dict[str, int]) -> str:
    """What to do where nothing is left, by the reason that took most."""
    return CURES.get(
        max(drop_reasons, key=drop_reasons.__getitem__, default=""),
        "look at the rows, each needs a prompt and responses that differ",
    )


def _different(group: EncodedGroup, sides: list[int]) -> list[int]:
    """Of sides with the same tokens the first: what is scored alike whatever the model says teaches nothing."""
    ids = [side.input_ids for side in group.sides]
    return [k for i, k in enumerate(sides) if all(ids[k] != ids[j] for j in sides[:i])]


def _flat(groups: list[EncodedGroup]) -> cache.Arrays:
    """Tokens of groups one after the other, each prompt once, and the lengths that find them again."""
    ids: list[int] = []
    trained: list[bool] = []
    for group in groups:
        shared = group.prompt_length
        ids += group.sides[0].input_ids[:shared]
        trained += [False] * shared  # earlier answers, too: they belong to the question
        for side in group.sides:
            ids += side.input_ids[shared:]
            trained += side.trained[shared:]
    own = [len(side.input_ids) - group.prompt_length for group in groups for side in group.sides]
    cuts = [(s.dropped_turns, s.cut_prompt, s.cut_response) for group in groups for s in group.sides]
    return {
        "input_ids": np.array(ids, dtype=np.int32),
        "trained": np.array(trained, dtype=bool),
        "prompt_lengths": np.array([group.prompt_length for group in groups], dtype=np.int32),
        "sides": np.array([len(group.sides) for group in groups], dtype=np.int32),
        "response_lengths": np.array(own, dtype=np.int32),
        "cuts": np.array(cuts, dtype=np.int64).reshape(-1, 3),
    }
