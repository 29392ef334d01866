"""Claims about whole trainings: ours and TRL's side by side, step by step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from auto_bot_tuner.dpo import DPOTrainer
from auto_bot_tuner.rlhf import RewardModelTrainer
from auto_bot_tuner.sft import SFTTrainer
from proof.claims import TRAINING, Case, Claim, Graded, Paper
from proof.peers import training as trl
from tests.preference_runs import Pairs
from tests.training_runs import small_model

Both = Callable[[Path], tuple[trl.Log, trl.Log]]
SFT_TEST = "tests/test_trl_parity.py::test_losses_and_gradient_norms_equal_trls_at_every_step"
KTO_TEST = "tests/test_dpo_parity.py::test_kto_equals_trls_kto_trainer_at_every_step"
REWARD_TEST = "tests/test_reward_parity.py::test_losses_and_gradient_norms_equal_trls_at_every_step"
DPO_TEST = "tests/test_dpo_parity.py::test_losses_margins_and_gradient_norms_equal_trls_at_every_step"


def sft(folder: Path) -> tuple[trl.Log, trl.Log]:
    return trl.our_sft(folder / "ours"), trl.trl_sft(folder / "trl")


def dpo(loss: str, beta: float) -> Both:
    def both(folder: Path) -> tuple[trl.Log, trl.Log]:
        ours = trl.our_dpo(folder / "ours", small_model(), Pairs(24), loss=loss, beta=beta)
        return ours, trl.trl_dpo(folder / "trl", small_model(), small_model(), loss_type=[loss], beta=beta)

    return both


def kto(folder: Path) -> tuple[trl.Log, trl.Log]:
    rows = trl.single_answers()
    ours = trl.our_dpo(folder / "ours", small_model(), rows, loss="kto", undesirable_weight=0.5)
    return ours, trl.trl_kto(folder / "trl", rows, undesirable_weight=0.5)


def side_by_side(name: str, of: Any, steps: int, both: Both, test: str) -> Claim:
    """Losses as values, norms of the gradient as gradients."""

    @cache
    def logs() -> tuple[trl.Log, trl.Log]:
        with tempfile.TemporaryDirectory() as folder:
            return both(Path(folder))

    def curve(who: int) -> Callable[[Case], Graded]:
        def found(case: Case) -> Graded:
            log = logs()[who]
            assert len(log) == steps, f"{len(log)} steps, not {steps}"
            return Graded([line["loss"] for line in log], [line["grad_norm"] for line in log])

        return found

    return Claim(
        name,
        of,
        Paper(f"{steps} steps, learning rate 0.01, weight decay, clipping"),
        test,
        lambda: iter([{}]),
        curve(0),
        None,
        "see the losses' own tables",
        curve(1),
        "TRL's trainer whole: losses, and norms of the gradient",
        bound=TRAINING,
        formula=r"L_1, \dots, L_n; \; \lVert g_1 \rVert, \dots, \lVert g_n \rVert",
    )


CLAIMS = [
    side_by_side("training by SFT", SFTTrainer, 5, sft, SFT_TEST),
    side_by_side("training of a reward model", RewardModelTrainer, 5, trl.both_rewards, REWARD_TEST),
    side_by_side("training by DPO", DPOTrainer, 6, dpo("sigmoid", 0.1), DPO_TEST),
    side_by_side("training by IPO", DPOTrainer, 6, dpo("ipo", 0.5), DPO_TEST),
    side_by_side("training by KTO", DPOTrainer, 6, kto, KTO_TEST),
]
