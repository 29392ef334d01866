"""Claims about GRPO and its family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import auto_bot_tuner.grpo.loss as grpo
from proof.advantages import PAPERS, TESTS
from proof.cases import dice, whole, written_responses
from proof.claims import Case, Claim, Graded, Paper
from proof.oracles import groups as definition
from proof.peers import groups as trl

PARITY = "tests/test_grpo_parity.py::"
C = r"c(\rho) = \max(-A\rho, -A\,\mathrm{clip}(\rho))"
LOSS = {
    "grpo": rf"\frac1N \sum_i \frac{{1}}{{|y_i|}} \sum_t c(\rho_{{i,t}}), \; {C}",
    "dr_grpo": r"\frac1N \sum_i \frac{1}{L_{max}} \sum_t c(\rho_{i,t})",
    "dapo": r"\frac{1}{\sum_i |y_i|} \sum_i \sum_t c(\rho_{i,t})",
    "gspo": r"\frac1N \sum_i c(s_i), \; s_i = (\pi_\theta(y_i) / \pi_{old}(y_i))^{1 / |y_i|}",
    "rloo": r"-\frac1N \sum_i A_i \sum_t \log \pi_\theta(y_{i,t})",
    "reinforce": r"-\frac1N \sum_i A_i \sum_t \log \pi_\theta(y_{i,t})",
}
IN_TRL: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "clip": (0.2, 0.28)},
    "gspo": {"loss_type": "grpo", "level": "sequence", "clip": (3e-4, 4e-4)},
}


def settings_of(case: Case) -> dict[str, Any]:
    given: dict[str, Any] = {"loss": case["loss"], "max_new_tokens": case["longest"]}
    if "beta" in case:
        given |= {"beta": case["beta"], "kl_kind": case["kind"], "reference_logprobs": case["reference_logprobs"]}
    if "clip" in case:
        given |= {"clip_ratio": case["clip"][0], "clip_ratio_high": case["clip"][1]}
    return given


def ours(case: Case) -> torch.Tensor:
    tensors = (case[name] for name in ("logprobs", "old_logprobs", "advantages", "mask"))
    return grpo.grpo_loss(*tensors, **settings_of(case))[0]


def of_trl(loss: str, **more: Any) -> Callable[[Case], torch.Tensor]:
    return lambda case: trl.grpo(case, **{**IN_TRL[loss], **more})[0]


def member(loss: str) -> Claim:
    in_trl = loss in IN_TRL
    return Claim(
        f"loss of {loss}",
        grpo.grpo_loss,
        PAPERS[loss],
        TESTS + "test_each_member_is_its_definition",
        lambda: written_responses(seeds=30, loss=loss),
        ours,
        definition.loss,
        "the formula, token by token; papers' own clip ranges",
        of_trl(loss) if in_trl else None,
        "`GRPOTrainer`"
        if in_trl
        else "differs: `RLOOTrainer` clips a ratio of the whole response; see the first step below",
        ("logprobs",),
        formula=LOSS[loss],
    )


def with_divergence(name: str, kind: str, peer: Callable[[Case], torch.Tensor], peer_is: str) -> Claim:
    return Claim(
        name,
        grpo.kl_term,
        Paper("Shao et al. 2024, eq. 4", "2402.03300"),
        PARITY
        + (
            "test_divergence_times_the_ratio_equals_trls_bias_correction"
            if kind == "k3"
            else "test_losses_gradients_and_clip_fractions_equal_trls"
        ),
        lambda: written_responses(loss="grpo", beta=0.1, kind=kind),
        ours,
        definition.loss,
        "the formula, token by token",
        peer,
        peer_is,
        ("logprobs",),
        formula=r"\beta \rho (e^{-d} - 1 + d)" if kind == "k3" else r"\beta (e^{-d} - 1 + d)",
    )


def logged(case: Case) -> dict[str, float]:
    """What grpo_loss says beside its loss."""
    tensors = (case[name] for name in ("logprobs", "old_logprobs", "advantages", "mask"))
    metrics = grpo.grpo_loss(*tensors, **settings_of(case))[1]
    return {name: metrics[name] for name in metrics if name != "loss"}


def clipped_and_kl(metrics: Callable[[Case], dict[str, float]]) -> Callable[[Case], list[float]]:
    return lambda case: [metrics(case)[name] for name in ("clip_fraction", "kl_loss")]


def logged_by_trl(case: Case) -> list[float]:
    metrics = trl.grpo(case, **IN_TRL[case["loss"]], beta=case["beta"])[1]
    return [metrics["clip_ratio/region_mean"][0], metrics["kl"][0]]


def members_with_kl(*losses: str) -> Iterator[Case]:
    for loss in losses:
        yield from written_responses(seeds=12, loss=loss, beta=0.1, kind="k3_plain")


def rloo_step(case: Case) -> Graded:
    logprobs = case["logprobs"].clone().requires_grad_()
    found = grpo.grpo_loss(logprobs, logprobs.detach(), case["advantages"], case["mask"], loss="rloo")[0]
    return Graded(None, torch.autograd.grad(found, logprobs)[0])


def rloo_step_by_definition(case: Case) -> Graded:
    n = len(case["lengths"])
    return Graded(
        None, [[-a / n * real for real in row] for a, row in zip(case["advantages"], case["mask"], strict=True)]
    )


def rloo_step_of_trl(case: Case) -> Graded:
    logprobs = case["logprobs"].clone().requires_grad_()
    return Graded(None, torch.autograd.grad(trl.rloo({**case, "logprobs": logprobs}), logprobs)[0])


def cut(loss: str) -> Iterator[Case]:
    """The rows of a step and where it is cut in two: anywhere, or in halves where TRL knows no other way."""
    for case in written_responses(loss=loss):
        halves = loss in ("grpo", "dr_grpo")
        rows = len(case["mask"]) // 2 * 2 if halves else len(case["mask"])
        whole_rows = {name: x[:rows] for name, x in case.items() if isinstance(x, torch.Tensor)}
        yield {**case, **whole_rows, "cut": rows // 2 if halves else whole(dice(case["seed"]), 1, rows - 1)}


def in_two(case: Case) -> torch.Tensor:
    total, weights = torch.zeros(()), 0
    for rows in (slice(0, case["cut"]), slice(case["cut"], None)):
        part = {name: case[name][rows] for name in ("logprobs", "old_logprobs", "advantages", "mask")}
        weight = grpo.loss_weight(part["mask"], case["loss"])
        total, weights = total + weight * ours({**case, **part}), weights + weight
    return total / weights


def in_two_of_trl(loss: str) -> Callable[[Case], torch.Tensor]:
    def peer(case: Case) -> torch.Tensor:
        total = torch.zeros(())
        for rows in (slice(0, case["cut"]), slice(case["cut"], None)):
            names = ("logprobs", "old_logprobs", "reference_logprobs", "advantages", "mask")
            part = {**case, **{name: case[name][rows] for name in names}}
            total = total + trl.grpo(part, **IN_TRL[loss], accumulation=2, tokens_in_step=case["mask"].sum())[0]
        return total

    return peer


def accumulated(loss: str) -> Claim:
    in_trl = loss in IN_TRL
    return Claim(
        f"{loss} in two micro-batches = in one",
        grpo.loss_weight,
        PAPERS[loss],
        TESTS + "test_cutting_into_micro_batches_changes_neither_loss_nor_gradient",
        partial(cut, loss),
        in_two,
        definition.loss,
        "the formula over all rows at once",
        in_two_of_trl(loss) if in_trl else None,
        "`GRPOTrainer`, its micro-batches added up" if in_trl else "not compared",
        ("logprobs",),
        formula=r"\sum_i \frac{w_i}{W} L_i",
    )


def lengths() -> Iterator[Case]:
    for buffer in (1, 4, 10):
        yield {"tokens": torch.arange(1, 21), "longest": 20, "buffer": buffer}


CLAIMS = [
    *(member(loss) for loss in PAPERS),
    Claim(
        "rloo: gradient of the first step",
        grpo.grpo_loss,
        PAPERS["rloo"],
        TESTS + "test_the_first_step_has_no_loss_but_a_gradient",
        lambda: written_responses(),
        rloo_step,
        rloo_step_by_definition,
        "-A / N at every token",
        rloo_step_of_trl,
        "`RLOOTrainer._compute_loss`, ratios 1",
        formula=r"-\frac1N A_i \nabla \log \pi_\theta(y_i)",
    ),
    with_divergence(
        "GRPO with KL, k3 times the ratio",
        "k3",
        of_trl("grpo", beta=0.1, bias_correction=True),
        "`GRPOTrainer`, `use_bias_correction_kl=True`",
    ),
    with_divergence(
        "GRPO with KL, plain k3",
        "k3_plain",
        of_trl("grpo", beta=0.1),
        "`GRPOTrainer` as it comes: value equal, but see “where toolkits go wrong”",
    ),
    Claim(
        "what is logged: clip fraction, approximate KL, ratio",
        grpo.grpo_loss,
        PAPERS["grpo"],
        TESTS + "test_gspos_clip_takes_whole_responses",
        lambda: (case for loss in PAPERS for case in written_responses(seeds=9, loss=loss)),
        logged,
        definition.metrics,
        "counted token by token, all members",
        peer_is="the clip fraction in the next row",
        formula=r"\rho - 1 - \log \rho",
    ),
    Claim(
        "clip fraction and KL, as TRL logs them",
        grpo.grpo_loss,
        PAPERS["grpo"],
        PARITY + "test_losses_gradients_and_clip_fractions_equal_trls",
        lambda: members_with_kl("grpo", "dr_grpo", "dapo"),
        clipped_and_kl(logged),
        clipped_and_kl(definition.metrics),
        "counted token by token",
        logged_by_trl,
        "`GRPOTrainer`'s log (of `gspo` it counts responses, we tokens)",
        formula=r"[A > 0 \wedge \rho > 1 + \epsilon] + [A < 0 \wedge \rho < 1 - \epsilon]",
    ),
    *(accumulated(loss) for loss in ("grpo", "dr_grpo", "dapo", "rloo")),
    Claim(
        "soft overlong penalty",
        grpo.overlong_penalty,
        Paper("Yu et al. 2025 (DAPO), eq. 13", "2503.14476"),
        TESTS + "test_the_overlong_penalty_falls_over_the_buffer",
        lengths,
        lambda case: grpo.overlong_penalty(case["tokens"], case["longest"], case["buffer"]),
        definition.overlong,
        "the three cases of the equation",
        lambda case: trl.overlong(case["tokens"].tolist(), case["longest"], case["buffer"]),
        "`get_soft_overlong_punishment`, sign turned",
        formula=r"\mathrm{clip}(\frac{|y| - (L_{max} - L_{buffer})}{L_{buffer}}, 0, 1)",
    ),
    Claim(
        "divergence in the reward",
        grpo.rewards_with_kl,
        PAPERS["rloo"],
        TESTS + "test_divergence_costs_beta_a_nat_in_the_reward",
        lambda: written_responses(beta=0.3),
        lambda case: grpo.rewards_with_kl(
            case["rewards"], case["logprobs"], case["reference_logprobs"], case["mask"], case["beta"]
        ),
        definition.rewards_with_kl,
        "summed token by token",
        peer_is="the same, inside `RLOOTrainer`'s generation",
        formula=r"r_i - \beta \sum_t (\log \pi_{old} - \log \pi_{ref})",
    ),
]
