"""Small training runs for tests: 37 random rows, a two-layer model, a few steps in well under a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from auto_bot_tuner.sft import SFTConfig, SFTTrainer
from tests.models import gpt2_tokenizer

VOCABULARY = 97
STOP = 0
# The shape of the small models here.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": STOP,
    "pad_token_id": STOP,
}
# What the small trainers' configs say unless a test says otherwise.
SHORT_RUN = {
    "learning_rate": 1e-2,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_epochs": 2,
    "logging_steps": 1,
    "report_to": (),
    "num_samples": 0,
}


def random_rows(count: int = 37, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Rows of 6 to 39 tokens; the first half is prompt, the last token the stop token."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(6, 40, (1,), generator=generator))
        input_ids = torch.randint(1, VOCABULARY, (length,), generator=generator)
        input_ids[-1] = STOP
        labels = input_ids.clone()
        labels[: length // 2] = -100
        rows.append({"input_ids": input_ids, "labels": labels, "attention_mask": torch.ones_like(input_ids)})
    return rows


def small_model(lora: bool = False, dropout_makes_noise: bool = False) -> Any:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=64))
    if not lora:
        return model
    from peft import LoraConfig, get_peft_model

    dropout = 0.3 if dropout_makes_noise else 0.0
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout))


def small_trainer(folder: Path, *, lora: bool = False, noisy: bool = False, **settings: Any) -> SFTTrainer:
    """A trainer over the rows, evaluating on nine of them; `settings` go into SFTConfig."""
    rows = random_rows()
    defaults = {"output_dir": str(folder), **SHORT_RUN}
    if noisy:  # randomness that a resumed run must find again
        defaults["neftune_alpha"] = 5.0
    return SFTTrainer(small_model(lora, noisy), gpt2_tokenizer(), rows, rows[:9], SFTConfig(**{**defaults, **settings}))


def logged(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the figures that a clock made."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in logged(folder) if "loss" in line]


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / name)
