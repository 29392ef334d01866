"""The work that both sides do: one model from a config and a seed, and rows with a real length distribution.

Lengths and trained shares are those of alpaca: real rows where the folder named by AUTO_BOT_TUNER_SHARED
holds them (in data/), else a seeded log-normal fitted to them. Token *values* hardly matter for speed, so ids are taken
modulo a small vocabulary.
"""

from __future__ import annotations

import json
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from benchmarks.task import Task

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 16_384  # of the rows' ids, whatever a model knows
IGNORED = -100
EOS_ID = 0
# Padding has an id of its own: where it is the end token's, transformers' classification models step over the end.
PAD_ID = 1
FIRST_WORD = 2


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama with tied embeddings and heads of 64."""

    vocabulary: int
    hidden: int
    layers: int
    intermediate: int

    @property
    def matrices(self) -> list[tuple[int, int, int]]:
        """(outputs, inputs, how many) of the trunk's weight matrices; the vocabulary's head is (vocabulary, hidden)."""
        return [
            (self.hidden, self.hidden, 4 * self.layers),
            (self.intermediate, self.hidden, 2 * self.layers),
            (self.hidden, self.intermediate, self.layers),
        ]

    @property
    def trunk_weights(self) -> int:
        return sum(outputs * inputs * count for outputs, inputs, count in self.matrices)

    @property
    def weights(self) -> int:
        return self.trunk_weights + self.vocabulary * self.hidden


# Small enough for a laptop's core; and the sizes of GPT-2 (its MLP has two matrices of 3072, this three of 2048).
SHAPES = {"17M": Shape(VOCABULARY, 384, 6, 1024), "124M": Shape(50_257, 768, 12, 2048)}


class Work(NamedTuple):
    """What the rows of a lap ask for, whoever trains them."""

    useful_tokens: int  # real tokens of all sequences
    flops: float  # the arithmetic that cannot be avoided


class Row(TypedDict):
    input_ids: list[int]
    labels: list[int]


def build_model(task: Task | None = None, seed: int = 0) -> LlamaForCausalLM:
    """A Llama with random weights, on the task's device: the same bits in every process."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(model_config(task)).to(task.device if task else "cpu")


def model_config(task: Task | None = None) -> LlamaConfig:
    from transformers import LlamaConfig

    shape = SHAPES[task.shape if task else "17M"]
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=shape.hidden // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Trainers want a tokenizer even for rows of ids, some want text: word t7 is token 7."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": EOS_ID, "<pad>": PAD_ID} | {f"t{i}": i for i in range(FIRST_WORD, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def build_rows(count: int, max_length: int, completion_only: bool, seed: int = 0) -> list[Row]:
    """`count` rows in a seeded random order; labels are the ids, or -100 on the prompt where `completion_only`."""
    shared = shared_data()
    pairs = _alpaca_pairs(shared, count, seed) if shared else _synthetic_pairs(count, seed)
    rows: list[Row] = []
    for prompt, answer in pairs:
        ids = (prompt + answer)[:max_length]
        labels = ([IGNORED] * len(prompt) + answer)[:max_length] if completion_only else list(ids)
        if any(label != IGNORED for label in labels[1:]):
            rows.append({"input_ids": ids, "labels": labels})
    return rows


def source_of_rows(name: str) -> str:
    """Named in the report: which of the two length distributions was measured."""
    return f"rows of {name}" if shared_data() else f"log-normal lengths fitted to {name}"


def shared_data() -> Path | None:
    """The folder with real data, where this machine has one."""
    named = os.environ.get("AUTO_BOT_TUNER_SHARED")
    return Path(named) / "data" if named else None


def _alpaca_pairs(shared: Path, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    lines = (shared / "alpaca" / "alpaca-5k.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in random.Random(seed).sample(lines, min(count, len(lines)))]
    inputs = [f"\n\n### Input:\n{row['input']}" if row["input"] else "" for row in rows]
    prompts = encode(
        shared,
        [
            f"### Instruction:\n{row['instruction']}{extra}\n\n### Response:\n"
            for row, extra in zip(rows, inputs, strict=True)
        ],
    )
    answers = encode(shared, [row["output"] for row in rows])
    return [(prompt, [*answer, EOS_ID]) for prompt, answer in zip(prompts, answers, strict=True)]


def encode(shared: Path, texts: list[str]) -> list[list[int]]:
    """GPT-2's tokens, as ids of the small vocabulary."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(shared / "gpt2-tokenizer"))
    words = VOCABULARY - FIRST_WORD
    return [[FIRST_WORD + token % words for token in ids] for ids in tokenizer(texts)["input_ids"]]


def _synthetic_pairs(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer lengths are independent log-normals with alpaca's medians and spreads."""
    generator = random.Random(seed)
    return [(synthetic_ids(generator, 25, 0.4), [*synthetic_ids(generator, 43, 1.1), EOS_ID]) for _ in range(count)]


def synthetic_ids(generator: random.Random, median: float, sigma: float) -> list[int]:
    """Made-up ids, as many as a log-normal draw says."""
    length = max(2, round(math.exp(generator.gauss(math.log(median), sigma))))
    # Token frequencies fall like a power law, as in text: uniform ids would make the loss a constant.
    return [FIRST_WORD + int((VOCABULARY - FIRST_WORD) * generator.random() ** 4) for _ in range(length)]


def forward_flops(length: int, after: int, scored: int, shape: Shape = SHAPES["17M"]) -> float:
    """FLOPs that reading `length` tokens after others *needs*, `scored` of them giving log-probabilities.

    2 per weight and position. Attention: each position sees those before it, half of its own row on average, once for
    the scores and once for the sum: 2 · 2 · H · (after + length / 2) per layer and position. The gradient of the
    weights costs as much again, and that of the layer's input too.
    """
    attention = 4 * shape.layers * shape.hidden * length * (after + length / 2)
    return 2 * shape.trunk_weights * length + 2 * shape.hidden * shape.vocabulary * scored + attention


def work_of(rows: list[Row], shape: Shape = SHAPES["17M"]) -> Work:
    """No padding, logits at trained positions only."""
    trained = (sum(label != IGNORED for label in row["labels"][1:]) for row in rows)
    lengths = [len(row["input_ids"]) for row in rows]
    flops = sum(3 * forward_flops(n, 0, t, shape) for n, t in zip(lengths, trained, strict=True))
    return Work(sum(lengths), flops)
