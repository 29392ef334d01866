"""The work of the preference benchmarks: pairs with a shared prompt, with a real length distribution.

Lengths are those of HH: real rows where the folder named by AUTO_BOT_TUNER_SHARED holds them, else a seeded log-normal
fitted to them. Prompts are dialogues, so more than half of all tokens belong to them, and each stands in both sides.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.task import Task
from benchmarks.workload import (
    EOS_ID,
    Work,
    build_model,
    encode,
    forward_flops,
    model_config,
    shared_data,
    synthetic_ids,
)

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import LlamaForSequenceClassification


class Pair(NamedTuple):
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def longest(self) -> int:
        """Tokens of the longer side, with its prompt."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def build_pairs(count: int, max_length: int, seed: int = 0) -> list[Pair]:
    """`count` pairs in a seeded random order; what is longer than `max_length` is cut before the end token."""
    shared = shared_data()
    pairs = []
    for prompt, *responses in _hh_pairs(shared, count, seed) if shared else _synthetic_pairs(count, seed):
        prompt = prompt[-max_length // 2 :]
        chosen, rejected = ([*response[: max_length - len(prompt) - 1], EOS_ID] for response in responses)
        pairs.append(Pair(prompt, chosen, rejected))
    return pairs


def _hh_pairs(shared: Path, count: int, seed: int) -> list[Pair]:
    lines = (shared / "hh-rlhf" / "harmless-base-1156.jsonl").read_text(encoding="utf-8").splitlines()
    sides = []
    for row in map(json.loads, lines):
        (prompt, _, chosen), (other_prompt, _, rejected) = (
            row[side].rpartition("\n\nAssistant:") for side in ("chosen", "rejected")
        )
        if prompt == other_prompt and chosen.strip() and rejected.strip():
            sides.append((prompt + "\n\nAssistant:", chosen, rejected))
    return [Pair(*encode(shared, list(texts))) for texts in random.Random(seed).sample(sides, min(count, len(sides)))]


def _synthetic_pairs(count: int, seed: int) -> list[Pair]:
    """The lengths of prompt and sides are independent log-normals with HH's medians and spreads."""
    generator = random.Random(seed)
    return [
        Pair(*(synthetic_ids(generator, median, sigma) for median, sigma in ((92, 1.0), (28, 0.9), (38, 1.0))))
        for _ in range(count)
    ]


def build_scoring_model(task: Task, seed: int = 0) -> LlamaForSequenceClassification:
    """The benchmark's Llama with a score head in place of the vocabulary's; the same bits in every process."""
    import torch
    from transformers import LlamaForSequenceClassification

    config = model_config(task)
    config.num_labels = 1
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config).to(task.device)


def lora_config() -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def build_policy(task: Task) -> Any:
    """What DPO trains. An adapter's random half is drawn from the seed that TRL sets before it draws its own."""
    import torch
    from peft import get_peft_model

    model = build_model(task)
    if task.reference != "adapter_off":
        return model
    torch.manual_seed(0)
    return get_peft_model(model, lora_config())


def work_of(pairs: list[Pair], task: Task) -> Work:
    """Prompts once, no padding, logits at the responses' tokens only; a reference reads forward alone."""
    forward, useful = 0.0, 0
    for prompt, *responses in pairs:
        forward += forward_flops(len(prompt), 0, 0)
        for response in responses:
            useful += len(prompt) + len(response)
            forward += forward_flops(len(response), len(prompt), len(response) if task.method == "dpo" else 0)
    # Forward, gradient of the inputs and, but for frozen weights, gradient of the weights.
    passes = 2 if task.reference == "adapter_off" else 3
    reads_reference = task.method == "dpo" and task.reference != "precomputed"
    return Work(useful, (passes + reads_reference) * forward)
