r"""A laboratory of reward hacking: a reward with a planted flaw, policies that find it, and three cures.

"When a measure becomes a target, it ceases to be a good measure." A reward model is right about what people wrote, and
wrong about what nobody has written yet; a policy that is paid by it goes looking there (Gao et al. 2022, 2210.10760).
In the bundled world what is *wanted* can be computed (the gold score), so a flaw can be planted, and measured:
`flawed_rewards.py`.

Four arms, the same policy, prompts and seed, trained by PPO. Each is a reward and two numbers:

    no-kl        paid by the proxy, divergence costs nothing
    kl           … every nat away from the reference costs kl_coefficient
    ensemble     paid by the lowest of three proxies with three different flaws
    early-stop   as no-kl, but it ends as soon as KL(policy || reference) passes a limit

What to look at: plotted against sqrt(KL), the proxy of `no-kl` rises on and on while gold, after a small rise, falls.
The cures do not mend the proxy: they keep the policy where it is right (kl, early-stop), or make being wrong
unprofitable (ensemble: Coste et al. 2023, 2310.02743). Errors that all members share are cured by none of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from auto_bot_tuner.rewards.source import RewardSource
from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.rlhf.flawed_rewards import ENSEMBLE, PROXY
from auto_bot_tuner.training.events import Event

DATASET = "tiny-prompts"


# --- arms -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    words: str
    reward: RewardSource = PROXY
    kl_coefficient: float = 0.0
    kl_limit: float = math.inf  # nats a response


def arms(kl_coefficient: float, kl_limit: float) -> tuple[Arm, ...]:
    """The disease and its three cures."""
    return (
        Arm("no-kl", "the proxy, and nothing that holds the policy back"),
        Arm("kl", f"the proxy, less {kl_coefficient:g} for every nat of divergence", kl_coefficient=kl_coefficient),
        Arm("ensemble", "the lowest of three proxies with different flaws", ENSEMBLE),
        Arm("early-stop", f"the proxy, until the divergence passes {kl_limit:g} nats", kl_limit=kl_limit),
    )


@dataclass(frozen=True)
class Scale:
    """How much of it: rollouts of an arm, rollouts between two measurements, prompts that are measured on."""

    rollouts: int
    every: int
    prompts: int


def scale_of(quick: bool, rollouts: int = 0) -> Scale:
    """The lab, or a look at it; `rollouts` of one's own, if not 0."""
    scale = Scale(rollouts=8, every=2, prompts=60) if quick else Scale(rollouts=16, every=2, prompts=150)
    return replace(scale, rollouts=rollouts or scale.rollouts)


def config_of(arm: Arm, scale: Scale, seed: int, output_dir: str) -> PPOConfig:
    """The settings of an arm. Not the shipped presets, which are tuned to learn well: these find a flaw soon."""
    config = PPOConfig(
        output_dir=output_dir,
        overwrite=True,
        seed=seed,
        learning_rate=2e-4,
        lr_schedule="constant",
        batch_size=32,
        minibatches=2,
        epochs_per_rollout=2,
        max_new_tokens=48,
        kl_coefficient=arm.kl_coefficient,
        missing_eos_penalty=0.0,  # one flaw at a time: no other rule keeps responses short
        save_steps=0,
        num_samples=1,
        report_to=(),
    )
    per_rollout = config.minibatches * config.epochs_per_rollout
    config.max_steps = scale.rollouts * per_rollout
    config.num_epochs = scale.rollouts  # more than enough: max_steps ends the run
    config.logging_steps = scale.every * per_rollout
    # A limit is watched closely: two rollouts may go far.
    config.eval_steps = per_rollout * (1 if math.isfinite(arm.kl_limit) else scale.every)
    return config


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Where a policy stands, from one sampled response to each of the same prompts, with the same noise."""

    step: int
    proxy: float  # what the flawed reward says, in every arm the same one
    gold: float  # what is wanted
    reward: float  # what the arm is paid: proxy, or the lowest of three
    kl: float  # KL(policy || reference), nats a response, estimated by k1
    response_length: float  # tokens
    prompt: str  # the first one
    sample: str  # the response to it

    @property
    def sqrt_kl(self) -> float:
        return math.sqrt(max(0.0, self.kl))  # the estimate may be a little below 0 where the models are the same


@dataclass
class Curve:
    """An arm's points, and what they say. It is a callback: of every evaluation it keeps a point."""

    NOISE: ClassVar[float] = 0.1  # means of 100 responses to the same prompts differ by so much for no reason

    arm: Arm
    points: list[Point] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, event: Event) -> None:
        if event.name == "evaluate":
            trainer: Any = event.trainer
            first = trainer.evaluated.attempts[0]
            found = {name.removeprefix("eval_"): value for name, value in event.metrics.items()}
            self.points.append(
                Point(
                    step=event.step,
                    proxy=found["reward_proxy"],
                    gold=found["reward_gold"],
                    reward=found["reward"],
                    kl=found["kl"],
                    response_length=found["response_length"],
                    prompt=" ".join(first.prompt[-1]["content"].split()),
                    sample=first.response,
                )
            )

    @property
    def is_hacked(self) -> bool:
        """The proxy says that it got better, gold that it got worse."""
        start, end = self.points[0], self.points[-1]
        return end.proxy > start.proxy + self.NOISE and end.gold < start.gold - self.NOISE

    @property
    def is_stopped(self) -> bool:
        """By the limit of its arm."""
        return self.points[-1].kl > self.arm.kl_limit

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.arm.name,
            "words": self.arm.words,
            "hacked": self.is_hacked,
            "stopped": self.is_stopped,
            "seconds": round(self.seconds, 1),
            "points": [asdict(point) | {"sqrt_kl": point.sqrt_kl} for point in self.points],
        }


class StopAtKL:
    """A callback that ends a run at the first evaluation whose divergence is past `limit`, in nats a response.

    The simplest cure: overoptimisation goes with the distance (Gao et al., fig. 1), so the distance says when to stop.
    It needs `eval_steps`, as it looks at evaluations alone.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, event: Event) -> None:
        if event.name == "evaluate" and event.step and event.metrics["eval_kl"] > self.limit:
            event.trainer.config.max_steps = event.step


def run_arm(arm: Arm, model: str, scale: Scale, seed: int, output_dir: str) -> Curve:
    """Train `model` (a name or folder) as the arm says, on the bundled world's prompts; its trained policy is in
    output_dir/final."""
    import torch

    from auto_bot_tuner.data.sources import load_rows
    from auto_bot_tuner.rewards import WeightedSum
    from auto_bot_tuner.rewards.verifiers import verifier
    from auto_bot_tuner.rlhf.ppo_trainer import PPOTrainer
    from auto_bot_tuner.rlhf.value_network import create_value_network_from_policy
    from auto_bot_tuner.rollouts.dataset import PromptDataset
    from auto_bot_tuner.training.config import DatasetConfig
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    started = time.perf_counter()
    data = DatasetConfig(name=DATASET, max_length=128, eval_max_samples=scale.prompts)
    train_rows, eval_rows = load_rows(data)
    torch.manual_seed(seed)
    policy, tokenizer, _ = load_model_and_tokenizer(model)
    watched = [verifier("gold"), *([PROXY] if arm.reward is not PROXY else [])]
    curve = Curve(arm)
    PPOTrainer(
        policy,
        create_value_network_from_policy(policy),
        WeightedSum([(1.0, arm.reward), *((0.0, source) for source in watched)]),
        None,
        tokenizer,
        PromptDataset(train_rows, tokenizer, data.max_length),
        PromptDataset(eval_rows, tokenizer, data.max_length),
        config_of(arm, scale, seed, output_dir),
        [curve, StopAtKL(arm.kl_limit)],
    ).train()
    curve.seconds = time.perf_counter() - started
    return curve
