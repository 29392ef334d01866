"""Claims that need no formula: two ways to the same thing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

import auto_bot_tuner.dpo.loss as dpo
import auto_bot_tuner.grpo.loss as grpo
import auto_bot_tuner.rlhf.ppo_loss as ppo
from auto_bot_tuner.rlhf.reward_model import RewardModel
from auto_bot_tuner.training.flat import hidden_states_at
from auto_bot_tuner.training.loop import Trainer
from auto_bot_tuner.training.reference import build_reference, choose_reference
from auto_bot_tuner.utils.saving import merge
from proof import worlds
from proof.claims import EXACT, FLOAT32, MODEL, Bound, Case, Claim, Graded, Paper
from tests.reward_runs import small_reward_model
from tests.training_runs import logged, losses, small_model, small_trainer, weights

ORACLES = "tests/test_policy_gradient_oracles.py::"
BANDIT = Bound(1e-6, "advantages are float32; all else is float64")
NO_PEER = "an identity: no peer needed"
SUTTON = Paper("Sutton et al. 2000, theorem 1; Ahmadian et al. 2024", "2402.14740")


def worlds_of(**settings: Any) -> Iterator[Case]:
    for seed in range(3):
        rewards = 2 * torch.randn(7, generator=torch.Generator().manual_seed(90 + seed), dtype=torch.float64)
        yield {"logits": worlds.table(seed).detach(), "rewards": rewards, "seed": seed, **settings}


def expected(case: Case) -> Graded:
    """The member's expected gradient at its first step; dr_grpo's constant length is 1, so that it sums."""
    logits, loss = case["logits"].clone().requires_grad_(), case["loss"]

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        logprobs = worlds.logprobs(logits)[rows]
        advantages = grpo.group_advantages(case["rewards"][rows], len(rows), loss=loss)
        return grpo.grpo_loss(logprobs, logprobs.detach(), advantages, worlds.MASK[rows], loss=loss, max_new_tokens=1)[
            0
        ]

    return Graded(None, worlds.expected_gradient(logits, case["size"], loss_of))


def truth(case: Case) -> Graded:
    slope = worlds.true_gradient(case["logits"], case["rewards"])
    return Graded(None, [case.get("share", 1.0) * x for x in slope])


def first_step_of_ppo(case: Case) -> Graded:
    """lambda 1, no whitening, sums over a response; values are a baseline, whatever they say."""
    logits = case["logits"].clone().requires_grad_()
    values = torch.tensor([0.4, -0.6, 1.1], dtype=torch.float64)[worlds.STATES] * worlds.MASK

    def loss_of(row: torch.Tensor) -> torch.Tensor:
        logprobs, mask = worlds.logprobs(logits)[row], worlds.MASK[row]
        rewards = ppo.token_rewards(case["rewards"][row], logprobs, None, mask, 0.0)
        advantages, _ = ppo.compute_gae(rewards, values[row], 1.0, 1.0, mask)
        return ppo.policy_loss(logprobs, logprobs.detach(), advantages, mask)[0] * mask.sum()

    return Graded(None, worlds.expected_gradient(logits, 1, loss_of))


def preferred() -> Iterator[Case]:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        reward = torch.randn(4, generator=generator, dtype=torch.float64)
        yield {
            "reward": reward,
            "reference": torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(0),
            "beta": 0.5,
        }


def optimum(case: Case) -> torch.Tensor:
    """Four answers, all pairs as often preferred as Bradley and Terry say, DPO's expected loss minimised."""
    reward, reference = case["reward"], case["reference"]
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    better, worse = torch.tensor([(i, j) for i in range(4) for j in range(4) if i != j]).T
    odds = torch.sigmoid(reward[better] - reward[worse])

    def closure() -> torch.Tensor:
        logits.grad = None
        policy = logits.log_softmax(0)
        h = (policy - reference)[better] - (policy - reference)[worse]
        loss = (odds * dpo.sigmoid_loss(h, case["beta"])).sum()
        loss.backward()
        return loss

    torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-13, tolerance_change=1e-17).step(closure)
    return logits.log_softmax(0)


def closed_form(case: Case) -> list[float]:
    from proof.oracles.arithmetic import log_softmax

    return log_softmax([q + r / case["beta"] for q, r in zip(case["reference"], case["reward"], strict=True)])


def once(**settings: Any) -> Iterator[Case]:
    yield settings


def curve(batch_size: int, accumulation: int, budget: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        cut = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "micro_batch_tokens": budget}
        small_trainer(Path(folder), num_epochs=1, **cut).train()
        return losses(Path(folder))


class Killed(Exception):
    """Stands for whatever ends a process."""


def a_run(folder: Path, kill_at: int | None = None, resume: bool = False, lora: bool = False) -> None:
    trainer = small_trainer(folder, lora=lora, save_steps=2, max_steps=6, noisy=True, resume=resume)

    def kill(event: Any) -> None:
        if event.name == "step" and event.step == kill_at:
            raise Killed

    trainer.callbacks.append(kill)
    trainer.train()


def result(folder: Path) -> list[Any]:
    """Every logged number, and the final weights as sums of their bits."""
    curve = [[line[name] for name in sorted(line) if isinstance(line[name], float)] for line in logged(folder)]
    bits = [int(tensor.view(torch.int32).long().sum()) for _, tensor in sorted(weights(folder / "final").items())]
    return [curve, bits]


@cache
def uninterrupted() -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        a_run(Path(folder))
        return result(Path(folder))


def killed_and_resumed(case: Case) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            a_run(Path(folder), kill_at=case["kill_at"])
        except Killed:
            a_run(Path(folder), resume=True)
        return result(Path(folder))


IDS = torch.arange(1, 25).view(2, 12)


def adapted(seed: int = 5) -> Any:
    """A LoRA model whose adapter does something."""
    model = small_model(lora=True)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def adapter_off(case: Case) -> torch.Tensor:
    """As the reference of DPO, PPO and GRPO is had without a copy."""
    from auto_bot_tuner.training.batching import Batch

    model = small_model(lora=True)
    kind = choose_reference(model, None, "auto")
    assert kind == "adapter_off"
    reference = build_reference(kind, model, None)
    for name, parameter in model.named_parameters():  # the policy moves on
        if "lora_B" in name:
            parameter.data += 0.2
    assert reference is not None
    batch = Batch(
        {
            "input_ids": IDS,
            "labels": IDS,
            "lengths": torch.tensor([12, 12]),
            "shared": torch.zeros(2, dtype=torch.long),
        },
        24,
        24,
        [0, 1],
    )
    return reference.logprobs(batch)


def base_alone(case: Case) -> torch.Tensor:
    logprobs = logits_of(small_model().eval())[:, :-1].double().log_softmax(-1).gather(-1, IDS[:, 1:, None])[..., 0]
    return torch.cat([torch.zeros(2, 1, dtype=torch.float64), logprobs], dim=1)


def saved_and_loaded(case: Case) -> torch.Tensor:
    model = small_reward_model(lora=case["lora"])
    model.offset = 0.25
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        if case["lora"]:
            model = RewardModel(model.model.merge_and_unload())
        model.save_pretrained(folder)
        return RewardModel.from_pretrained(folder, "cpu")(IDS)


def before_saving(case: Case) -> torch.Tensor:
    model = small_reward_model(lora=case["lora"])
    model.offset = 0.25
    with torch.no_grad():
        return model(IDS)


def bandit(name: str, test: str, of: Any, ours: Any, paper: Paper = SUTTON, **settings: Any) -> Claim:
    return Claim(
        name,
        of,
        paper,
        ORACLES + test,
        lambda: worlds_of(**settings),
        ours,
        truth,
        "the gradient of the expected reward, by hand over all seven responses",
        peer_is=NO_PEER,
        bound=BANDIT,
        formula=r"E[\hat g] = (1 - \frac1G) \nabla E[r]" if "share" in settings else r"E[\hat g] = \nabla E[r]",
    )


RULES = Paper("two ways to the same")
CLAIMS = [
    bandit(
        "RLOO climbs the expected reward",
        "test_rloo_climbs_the_expected_reward",
        grpo.group_advantages,
        expected,
        loss="rloo",
        size=2,
    ),
    bandit(
        "REINFORCE climbs it",
        "test_reinforce_climbs_it_though_its_baseline_comes_from_another_prompt",
        grpo.group_advantages,
        expected,
        loss="reinforce",
        size=3,
    ),
    bandit(
        "Dr. GRPO climbs 1 - 1/G of it",
        "test_dr_grpo_climbs_at_one_minus_one_over_g_of_the_slope",
        grpo.group_advantages,
        expected,
        Paper("Liu et al. 2025, app. A", "2503.20783"),
        loss="dr_grpo",
        size=3,
        share=2 / 3,
    ),
    bandit(
        "PPO's first step climbs it, λ = 1",
        "test_ppos_first_step_climbs_the_expected_reward_less_the_divergence",
        ppo.compute_gae,
        first_step_of_ppo,
        Paper("Schulman et al. 2017, eq. 6", "1707.06347"),
    ),
    Claim(
        "DPO's optimum is π_ref e^(r/β) / Z",
        dpo.sigmoid_loss,
        Paper("Rafailov et al. 2023, eq. 4", "2305.18290"),
        "tests/test_dpo_loss.py::test_the_optimum_recovers_a_known_bradley_terry_reward",
        preferred,
        optimum,
        closed_form,
        "the closed form",
        peer_is=NO_PEER,
        bound=Bound(1e-6, "float64, minimised until its gradient is 1e-13"),
        formula=r"\pi^* \propto \pi_{ref} \, e^{r / \beta}",
    ),
    *(
        Claim(
            f"{name} = 8 × 1, five steps",
            Trainer.learn_from,
            RULES,
            "tests/test_loop.py::test_cutting_the_rows_of_a_step_differently_gives_the_same_run",
            lambda cut=cut: once(cut=cut),
            lambda case: curve(*case["cut"]),
            lambda case: curve(8, 1, 0),
            "the run whose steps are one forward pass",
            peer_is="differs on reward models and GRPO: means of means",
            bound=Bound(1e-5, "five steps of Adam on float32 rounding"),
            formula=r"\sum_i \frac{w_i}{W} \nabla L_i",
        )
        for name, cut in (("4 × 2", (4, 2, 100)), ("1 × 8", (1, 8, 1)))
    ),
    Claim(
        "packed = padded",
        hidden_states_at,
        RULES,
        "tests/test_sft_loss.py::test_flat_and_padded_equal_each_row_by_itself",
        lambda: once(),
        lambda case: packed(True),
        lambda case: packed(False),
        "the same rows in a padded batch",
        peer_is="packs too, but not by these means",
        bound=MODEL,
        formula=r"h_t(\text{flat}) = h_t(\text{padded})",
    ),
    Claim(
        "adapter off = base",
        build_reference,
        RULES,
        "tests/test_dpo_reference.py::test_adapters_give_what_a_deep_copy_gives_before_and_after_the_policy_has_moved",
        lambda: once(),
        adapter_off,
        base_alone,
        "the base model without any adapter, transformers' own forward",
        peer_is="does the same",
        bound=MODEL,
        formula=r"\pi_{ref} = \pi_{\theta \setminus \Delta}",
    ),
    Claim(
        "merged = adapter",
        merge,
        RULES,
        "tests/test_export.py::test_merging_gives_the_adapted_models_logits_and_says_how_far_they_are",
        lambda: once(),
        lambda case: logits_of(merge(adapted())),
        lambda case: logits_of(adapted()),
        "base and adapter apart",
        peer_is="does the same, by peft",
        bound=MODEL,
        formula=r"W + \frac{\alpha}{r} B A",
    ),
    *(
        Claim(
            f"a reward model saved and loaded{', from LoRA' if lora else ''}",
            RewardModel.save_pretrained,
            RULES,
            "tests/test_reward_model.py::test_a_saved_reward_model_scores_as_before",
            lambda lora=lora: once(lora=lora),
            saved_and_loaded,
            before_saving,
            "its scores before, zero point included",
            peer_is="has no zero point",
            bound=FLOAT32 if lora else EXACT,
            formula=r"r(\text{loaded}) = r",
        )
        for lora in (False, True)
    ),
    Claim(
        "killed and resumed = never stopped",
        Trainer.train,
        RULES,
        "tests/test_resume.py::test_killed_after_a_step",
        lambda: iter([{"kill_at": 3}, {"kill_at": 4}]),
        killed_and_resumed,
        lambda case: uninterrupted(),
        "an uninterrupted run with noise on its embeddings: every logged figure, the bits of the final weights",
        peer_is="not compared",
        bound=EXACT,
        formula=r"\theta_n, L_1, \dots, L_n",
    ),
]


def packed(is_flat: bool) -> torch.Tensor:
    from auto_bot_tuner.training.flat import make_flat, real_tokens

    model: Any = small_model().eval()
    lengths = torch.tensor([12, 7])
    if is_flat:
        assert make_flat(model, 97)
    with torch.no_grad():
        return hidden_states_at(model, is_flat, IDS, lengths, real_tokens(IDS, lengths))
