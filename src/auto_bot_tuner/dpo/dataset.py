"""Preference rows → pairs of answers to one prompt: what `DPOTrainer` reads (single good or bad answers for KTO)."""

from __future__ import annotations

from typing import Any

from auto_bot_tuner.data.response_groups import ResponseGroups


class PreferenceDataset(ResponseGroups):
    """Pairs of a chosen and a rejected answer to the same prompt.

    Args:
        dataset: rows with `prompt`, `chosen`, `rejected` (texts or message lists), raw HH transcripts, rankings or
            scored responses: every format that `data/preferences.py` knows. Of a ranking of K responses all
            K (K - 1) / 2 pairs are made, as InstructGPT does; tied ones are left out.
        max_length: longest side in tokens.
        max_prompt_length: longest prompt in tokens; None or 0: `max_length` alone decides.
        unpaired: single answers instead, each good or bad (KTO); a pair becomes one of each.

    `ds[i]` → `chosen_input_ids`, `chosen_attention_mask`, `chosen_labels`, the same for `rejected_…`: long tensors (T,)
    of each side's own length, labels -100 where not trained; `prompt_length` (1,): leading tokens both share.
    """

    def __init__(
        self,
        dataset: Any,
        tokenizer: Any,
        max_length: int = 512,
        max_prompt_length: int | None = None,
        *,
        unpaired: bool = False,
        system_prompt: str = "",
    ):
        super().__init__(
            dataset,
            tokenizer,
            max_length,
            kind="unpaired" if unpaired else "pairs",
            max_prompt_length=max_prompt_length,
            system_prompt=system_prompt,
        )
