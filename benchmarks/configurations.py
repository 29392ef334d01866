"""The one list of what is measured, with the target of each line and the reason why it may not be reached.

The texts are in `reasons.py`; their holes are filled with the figures of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.reasons import (
    BF16_CEILING,
    COMPLETION,
    FP32_CEILING,
    GRPO_SPEED,
    LORA_MEMORY,
    MEMORY,
    PACKING_MEMORY,
    PPO_PART,
    PREPARING,
    ROUNDS,
    SPEED,
    STARTUP,
)
from benchmarks.task import Task

# glibc gives large blocks back to the system at each free, and pays for them page by page at the next malloc.
TUNED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
# Intel's library then multiplies as a processor without AVX-512 does, element-wise work stays as it is.
SLOW_PRODUCTS = {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(frozen=True)
class Target:
    """What a figure should be at least (or at most), and the measured reason where it is not."""

    figure: str  # of Result.figures
    bound: float
    at_most: bool = False
    reason: str = ""

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{sign} {self.bound:.0%}" if "ceiling" in self.figure else f"{sign} {self.bound:g}"


@dataclass(frozen=True)
class Configuration:
    """One line of the table."""

    name: str
    method: str  # the part's heading, and its name on the command line
    title: str
    task: Task
    targets: tuple[Target, ...] = ()
    peer: str = "TRL"  # who is on the other side; "" nobody
    rounds: int = 5  # paired, after one to warm up
    steps: int = 1  # optimiser steps (rollouts) of one lap
    environment: dict[str, str] = field(default_factory=dict)  # of all sides
    peer_environment: dict[str, str] = field(default_factory=dict)
    expected_seconds: int = 60  # for the time left, until a run says better


def at_most(figure: str, bound: float, reason: str = "") -> Target:
    return Target(figure, bound, at_most=True, reason=reason)


def speed(bound: float, reason: str = SPEED) -> Target:
    return Target("speed", bound, reason=reason)


BEST = {"variant": "best"}
SFT = Task(method="sft")
REWARD = Task(method="reward")
DPO = Task(method="dpo")
GRPO = Task(method="grpo", rows_per_step=2, replayed_steps=2)
PPO = Task(method="ppo", rows_per_step=8, minibatches=2, epochs_per_rollout=2, group_size=1)
GENERATION_TASK = Task(method="generation", rows_per_step=4, group_size=8, max_new_tokens=64)
FLOORS = tuple(
    Target(f"{part} ceiling", floor, reason=PPO_PART)
    for part, floor in (("writing", 0.1), ("scoring", 0.4), ("training", 0.4))
)

# In all about 17 minutes on two quiet cores.
CPU = (
    Configuration(
        "sft", "sft", "SFT; TRL out of the box", SFT,
        (speed(3), at_most("memory", 0.45, MEMORY), Target("ceiling", 0.75, reason=FP32_CEILING)),
        steps=2, expected_seconds=48,
    ),
    Configuration(
        "sft-best", "sft", "SFT; TRL at its best", replace(SFT, micro_batch=2, **BEST), (speed(1.1),),
        steps=2, peer_environment=TUNED_MALLOC, expected_seconds=32,
    ),
    Configuration(
        "sft-bf16", "sft", "SFT in bf16; TRL out of the box", replace(SFT, precision="bf16"),
        (speed(3), Target("ceiling", 0.40, reason=BF16_CEILING)), steps=1, expected_seconds=27,
    ),
    Configuration(
        "sft-best-bf16", "sft", "SFT in bf16; TRL at its best",
        replace(SFT, precision="bf16", micro_batch=4, **BEST), (speed(1.4),),
        peer_environment=TUNED_MALLOC, expected_seconds=21,
    ),
    Configuration(
        "sft-completion", "sft", "SFT, completion only; TRL out of the box", replace(SFT, completion_only=True),
        (speed(3.5, COMPLETION), at_most("memory", 0.45, MEMORY)), expected_seconds=33,
    ),
    Configuration(
        "sft-packing", "sft", "SFT of packed rows; TRL packing", replace(SFT, variant="packing", rows_per_step=2),
        (speed(1.75), at_most("memory", 0.55, PACKING_MEMORY)), expected_seconds=32,
    ),
    Configuration(
        "sft-slow-products", "sft", "SFT, matrix products held to AVX2; TRL out of the box", SFT,
        rounds=3, environment=SLOW_PRODUCTS, expected_seconds=32,
    ),
    Configuration(
        "reward", "reward", "Reward model; TRL out of the box", REWARD,
        (speed(3), at_most("memory", 0.40, MEMORY)), expected_seconds=52,
    ),
    Configuration(
        "reward-best", "reward", "Reward model; TRL at its best", replace(REWARD, micro_batch=2, **BEST),
        rounds=3, peer_environment=TUNED_MALLOC, expected_seconds=28,
    ),
    Configuration(
        "dpo", "dpo", "DPO, reference a copy; TRL out of the box", DPO,
        (speed(4), at_most("memory", 0.35, MEMORY)), expected_seconds=124,
    ),
    Configuration(
        "dpo-best", "dpo", "DPO, reference a copy; TRL at its best", replace(DPO, micro_batch=2, **BEST),
        rounds=3, peer_environment=TUNED_MALLOC, expected_seconds=47,
    ),
    Configuration(
        "dpo-lora", "dpo", "DPO on LoRA, reference with adapter off; TRL out of the box",
        replace(DPO, reference="adapter_off", learning_rate=2e-4),
        (speed(4), at_most("memory", 0.35, LORA_MEMORY)), rounds=3, expected_seconds=84,
    ),
    Configuration(
        "dpo-precomputed", "dpo", "DPO, reference computed before; TRL out of the box",
        replace(DPO, reference="precomputed"),
        (speed(4), at_most("memory", 0.35, MEMORY)), rounds=3, expected_seconds=83,
    ),
    Configuration(
        "grpo", "grpo", "GRPO, 2 prompts × 8; TRL out of the box", GRPO,
        (speed(2.3, GRPO_SPEED), at_most("memory", 0.50, MEMORY)), expected_seconds=104,
    ),
    Configuration(
        "grpo-best", "grpo", "GRPO, 2 prompts × 8; TRL at its best", replace(GRPO, micro_batch=4, **BEST),
        rounds=3, peer_environment=TUNED_MALLOC, expected_seconds=67,
    ),
    Configuration("ppo", "ppo", "PPO, four networks", PPO, FLOORS, peer="", rounds=3, expected_seconds=46),
    Configuration(
        "ppo-lora", "ppo", "PPO on LoRA, one shared backbone", replace(PPO, lora=True, learning_rate=2e-4),
        (Target("writing ceiling", 0.07, reason=PPO_PART), *(replace(floor, bound=0.3) for floor in FLOORS[1:])),
        peer="", rounds=3, expected_seconds=46,
    ),
    Configuration(
        "generation", "generation", "Generation, 4 prompts × 8", GENERATION_TASK, (speed(1.6, ROUNDS),),
        peer="transformers", expected_seconds=35,
    ),
    Configuration(
        "generation-distinct", "generation", "Generation, 32 distinct prompts",
        replace(GENERATION_TASK, rows_per_step=32, group_size=1), (speed(1.0, ROUNDS),),
        peer="transformers", expected_seconds=38,
    ),
    Configuration(
        "rows", "rows", "Preparing 2000 rows", Task(method="rows", rows_per_step=2000),
        (speed(3, PREPARING),), expected_seconds=28,
    ),
    Configuration(
        "start-up", "start-up", "Start-up: the slowest --help", Task(method="startup"),
        (at_most("start-up CPU s", 1.5, STARTUP), at_most("start-up wall s", 1.5, STARTUP)),
        peer="", expected_seconds=43,
    ),
)  # fmt: skip


def on_gpu(configuration: Configuration) -> Configuration:
    """The same work in bf16 on a GPU. The targets were set on a CPU; there they would say nothing."""
    task = replace(configuration.task, device="cuda", precision="bf16")
    return replace(configuration, task=task, targets=(), environment={}, peer_environment={})


# A GPU computes in bf16; rows and start-up need none.
LARGE = Task(method="sft", device="cuda", precision="bf16", shape="124M", rows_per_step=32)
GPU = (
    *(
        on_gpu(configuration)
        for configuration in CPU
        if configuration.task.precision == "fp32"
        and not configuration.environment
        and configuration.method not in ("rows", "start-up")
    ),
    Configuration(
        "sft-124M", "sft", "SFT of 124M weights (GPT-2's sizes), 32 rows; TRL out of the box", LARGE, steps=4,
    ),
    Configuration(
        "sft-124M-best", "sft", "SFT of 124M weights, 32 rows; TRL at its best",
        replace(LARGE, micro_batch=8, **BEST), steps=4,
    ),
    Configuration(
        "sft-124M-compile", "sft", "SFT of 124M weights, 32 rows, ours with torch.compile; TRL out of the box",
        replace(LARGE, compile=True), steps=4,
    ),
)  # fmt: skip


def configurations(device: str) -> dict[str, Configuration]:
    return {configuration.name: configuration for configuration in (GPU if device == "cuda" else CPU)}
