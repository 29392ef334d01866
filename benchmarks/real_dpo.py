"""DPO on real preferences, from one SFT LoRA checkpoint, with every kind of reference.

What must hold before the first step (margin 0, loss ln 2), what training does to held-out pairs, and whether `final/`
is the trained policy for somebody who has transformers and peft alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from auto_bot_tuner.data.preferences import read_preference
from auto_bot_tuner.dpo import DPOConfig, DPOTrainer, PreferenceDataset
from auto_bot_tuner.sft import InstructionDataset, SFTConfig, SFTTrainer
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from benchmarks.real_rewards import silence

MAX_LENGTH = 192
QUIET: dict[str, Any] = {"report_to": (), "num_samples": 0, "save_steps": 0, "logging_steps": 1}


@dataclass(frozen=True)
class Run:
    """One way to do DPO."""

    title: str
    start: str  # of the SFT run's final/: the merged model ("."), or its adapter to go on from ("adapter")
    use_lora: bool
    reference: str
    learning_rate: float
    max_steps: int = 0  # 0: one epoch


class Outcome(NamedTuple):
    """What a run did to the held-out pairs: metrics of `DPOTrainer.evaluate` before and after, and of `final/`."""

    run: Run
    reference: str
    before: dict[str, float]
    after: dict[str, float]
    train_losses: list[float]
    final_difference: float  # largest |log-probability of a token by final/ in transformers and peft - by the policy|
    final_apart: float  # the same between final/ and the starting policy: what would be lost if final/ lost it

    @property
    def start_is_known(self) -> bool:
        """Rule of step 0: policy and reference are one model."""
        tolerance = 1e-4 if self.run.reference == "precomputed" else 1e-6
        return (
            abs(self.before["eval_reward_margin"]) <= tolerance
            and abs(self.before["eval_loss"] - math.log(2)) <= tolerance
            and abs(self.train_losses[0] - math.log(2)) <= tolerance
        )


def sft_checkpoint(model: str, rows: Sequence[Any], folder: Path, learning_rate: float = 2e-3) -> Path:
    """SFT with LoRA on the chosen answers: final/ holds the merged model, final/adapter the adapter alone."""
    policy, tokenizer, _ = load_model_and_tokenizer(model, "cpu", use_lora=True)
    chats = []
    for row in rows:
        preference = read_preference(row, "a row")[1]
        if preference.responses[0]:
            chats.append({"messages": [*preference.prompt, *preference.responses[0]]})
    data = InstructionDataset(chats, tokenizer, max_length=MAX_LENGTH, format_type="chat")
    config = SFTConfig(
        output_dir=str(folder), learning_rate=learning_rate, batch_size=16, gradient_accumulation_steps=1, **QUIET
    )
    with silence():
        SFTTrainer(policy, tokenizer, data, None, config).train()
    return folder / "final"


def dpo(run: Run, sft: Path, train: Sequence[Any], held_out: Sequence[Any], folder: Path) -> Outcome:
    """One run from the SFT checkpoint."""
    start = str(sft / run.start)
    policy, tokenizer, _ = load_model_and_tokenizer(start, "cpu", use_lora=run.use_lora)
    train_data, eval_data = (PreferenceDataset(rows, tokenizer, MAX_LENGTH) for rows in (train, held_out))
    config = DPOConfig(
        output_dir=str(folder),
        reference=run.reference,  # type: ignore[arg-type]  # pydantic refuses any other word
        learning_rate=run.learning_rate,
        max_steps=run.max_steps,
        batch_size=16,
        gradient_accumulation_steps=1,
        **QUIET,
    )
    trainer = DPOTrainer(policy, None, tokenizer, train_data, eval_data, config)
    probes = [eval_data.group(i).input_ids[0] for i in range(min(8, len(eval_data)))]
    started = logprobs(policy, probes)
    with silence():
        trainer.train()
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in logged if "eval_loss" in line]
    trained = logprobs(policy, probes)
    with silence():
        plain = [logprobs(model, probes) for model in opened_plainly(folder / "final")]
    return Outcome(
        run,
        trainer.reference_kind,
        evaluations[0],
        evaluations[-1],
        [line["loss"] for line in logged if "loss" in line],
        max(largest(trained, found) for found in plain),
        min(largest(started, found) for found in plain),
    )


def opened_plainly(final: Path) -> list[Any]:
    """final/ as a stranger opens it: the model, and of a LoRA run also the adapter, on the base that it names."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    models = [AutoModelForCausalLM.from_pretrained(str(final), dtype=torch.float32)]
    if (final / "adapter").is_dir():
        models.append(AutoPeftModelForCausalLM.from_pretrained(str(final / "adapter"), dtype=torch.float32))
    return models


@torch.no_grad()
def logprobs(model: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Log-probabilities of all tokens after the first, row by row: (T - 1,) each, by transformers' own forward."""
    model.eval()
    found = []
    for ids in rows:
        scores = (
            model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None])).logits[0, :-1].float().log_softmax(-1)
        )  # (T - 1, V)
        found.append(scores.gather(-1, ids[1:, None])[:, 0])
    return found


def largest(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))
