"""The work that both sides do: one model from a config and a seed, and rows with a real length distribution.

Lengths and trained shares are those of alpaca: real rows where the folder named by AUTO_BOT_TUNER_SHARED
holds them, else a seeded log-normal fitted to them. Token *values* hardly matter for speed, so ids are taken
modulo a small vocabulary.
"""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 16_384
HIDDEN = 384
LAYERS = 6
INTERMEDIATE = 1024
IGNORED = -100
EOS_ID = 0


class Row(TypedDict):
    input_ids: list[int]
    labels: list[int]


def build_model(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of 17 M parameters (tied embeddings) with random weights: the same bits in every process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // 64,
        num_key_value_heads=HIDDEN // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
    )
    return LlamaForCausalLM(config)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Trainers want a tokenizer even for rows of ids. This one only knows its end token (= pad)."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": EOS_ID} | {f"t{i}": i for i in range(1, VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<eos>")), eos_token="<eos>", pad_token="<eos>"
    )


def build_rows(count: int, max_length: int, completion_only: bool, seed: int = 0) -> list[Row]:
    """`count` rows in a seeded random order; labels are the ids, or -100 on the prompt where `completion_only`."""
    shared = os.environ.get("AUTO_BOT_TUNER_SHARED", "")
    pairs = _alpaca_pairs(Path(shared), count, seed) if shared else _synthetic_pairs(count, seed)
    rows: list[Row] = []
    for prompt, answer in pairs:
        ids = (prompt + answer)[:max_length]
        labels = ([IGNORED] * len(prompt) + answer)[:max_length] if completion_only else list(ids)
        if any(label != IGNORED for label in labels[1:]):
            rows.append({"input_ids": ids, "labels": labels})
    return rows


def source_of_rows() -> str:
    """Named in the report: which of the two length distributions was measured."""
    return "alpaca rows" if os.environ.get("AUTO_BOT_TUNER_SHARED") else "log-normal lengths fitted to alpaca"


def _alpaca_pairs(shared: Path, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(shared / "gpt2-tokenizer"))
    lines = (shared / "alpaca" / "alpaca-5k.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in random.Random(seed).sample(lines, min(count, len(lines)))]

    def encode(texts: list[str]) -> list[list[int]]:
        return [[1 + token % (VOCABULARY - 1) for token in ids] for ids in tokenizer(texts)["input_ids"]]

    inputs = [f"\n\n### Input:\n{row['input']}" if row["input"] else "" for row in rows]
    prompts = encode(
        [
            f"### Instruction:\n{row['instruction']}{extra}\n\n### Response:\n"
            for row, extra in zip(rows, inputs, strict=True)
        ]
    )
    answers = encode([row["output"] for row in rows])
    return [(prompt, [*answer, EOS_ID]) for prompt, answer in zip(prompts, answers, strict=True)]


def _synthetic_pairs(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer lengths are independent log-normals with alpaca's medians and spreads."""
    generator = random.Random(seed)

    def ids(median: float, sigma: float) -> list[int]:
        length = max(2, round(math.exp(generator.gauss(math.log(median), sigma))))
        # Token frequencies fall like a power law, as in text: uniform ids would make the loss a constant.
        return [1 + int((VOCABULARY - 1) * generator.random() ** 4) for _ in range(length)]

    return [(ids(25, 0.4), [*ids(43, 1.1), EOS_ID]) for _ in range(count)]


def model_flops(rows: list[Row]) -> float:
    """FLOPs that a forward and backward pass of these rows *needs*: no padding, logits at trained positions only.

    2 per weight and position forward, 4 backward. Attention: each position sees half of the row on average,
    once for the scores and once for the sum: 2 · 2 · H · T/2 per layer and position, times 3 with backward.
    """
    trunk_weights = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
    flops = 0.0
    for row in rows:
        length = len(row["input_ids"])
        trained = sum(label != IGNORED for label in row["labels"][1:])
        flops += 6 * trunk_weights * length + 6 * HIDDEN * VOCABULARY * trained + 6 * LAYERS * HIDDEN * length**2
    return flops
