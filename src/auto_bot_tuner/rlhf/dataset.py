"""Preference rows → groups of answers to one prompt whose scores are compared: what `RewardModelTrainer` reads."""

from __future__ import annotations

from typing import Any, Literal

from auto_bot_tuner.data.response_groups import ResponseGroups


class RewardModelDataset(ResponseGroups):
    """Answers to one prompt, with what the data knows of their order.

    Args:
        dataset: every format that `data/preferences.py` knows.
        max_length: longest side (prompt and answer) in tokens.
        kind: `pairs` (a better and a worse answer; rankings give all their pairs), `rankings` (two or more answers,
            best first, no ties) or `scores` (answers with the data's own numbers, for regression).
        max_prompt_length: longest prompt in tokens; None or 0: `max_length` alone decides.
    """

    def __init__(
        self,
        dataset: Any,
        tokenizer: Any,
        max_length: int = 512,
        *,
        kind: Literal["pairs", "rankings", "scores"] = "pairs",
        max_prompt_length: int | None = None,
        system_prompt: str = "",
    ):
        super().__init__(
            dataset,
            tokenizer,
            max_length,
            kind=kind,
            max_prompt_length=max_prompt_length,
            system_prompt=system_prompt,
        )
