"""What a worker is told to do: one JSON object, the same fields for both sides."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Task:
    """The work of one line of the benchmark."""

    method: Literal["sft", "reward", "dpo", "grpo", "ppo", "generation", "rows", "startup"] = "sft"
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    shape: Literal["17M", "124M"] = "17M"  # of the model: workload.SHAPES
    compile: bool = False  # our side: torch.compile
    # TRL's side: "default" out of the box, "best" the settings that were fastest here, "packing".
    variant: Literal["default", "best", "packing"] = "default"
    completion_only: bool = False  # SFT
    # DPO: where the reference's log-probabilities come from. With adapter_off the policy is an adapter, else the model.
    reference: Literal["copy", "adapter_off", "precomputed"] = "copy"
    rows_per_step: int = 8  # or pairs, or prompts
    lora: bool = False  # PPO and GRPO
    group_size: int = 8  # GRPO and generation: responses to a prompt
    max_new_tokens: int = 128  # of a response
    minibatches: int = 1  # steps of one pass over a rollout
    epochs_per_rollout: int = 1
    # GRPO: so many first steps train on given responses, the same on both sides, so that losses can be compared.
    replayed_steps: int = 0
    # TRL's side: rows of one forward pass; more are reached by accumulation. 0: all rows of the step.
    micro_batch: int = 0
    steps: int = 12
    max_length: int = 512
    learning_rate: float = 2e-5

    @classmethod
    def from_argv(cls) -> Task:
        return cls(**json.loads(sys.argv[1]))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def rows(self) -> int:
        """Enough rows for every step; packing puts many rows into one packed row."""
        return self.steps * self.rows_per_step * self.minibatches * (12 if self.variant == "packing" else 1)

    @property
    def rows_written(self) -> int:
        """Responses that are written side by side: rows of each matrix product while writing."""
        return self.rows_per_step * (self.minibatches if self.method == "ppo" else 1) * self.group_size
