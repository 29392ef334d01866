"""Claims about the estimates of the divergence, against the exact one of a small vocabulary: values and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

import auto_bot_tuner.grpo.loss as grpo
import auto_bot_tuner.rlhf.ppo_loss as ppo
from proof.cases import dice, normal
from proof.claims import FLOAT64, Bound, Case, Claim, Graded, Paper
from proof.oracles.arithmetic import log_softmax

SCHULMAN = Paper("Schulman 2020, “Approximating KL divergence”")
ORACLES = "tests/test_policy_gradient_oracles.py::"
ENUMERATED = "the exact KL(π ‖ π_ref) over the whole vocabulary, its slope by finite differences"


def vocabularies() -> Iterator[Case]:
    """Two distributions over 2 to 11 words, near each other and far."""
    for seed in range(24):
        generator = dice(seed)
        size = 2 + seed % 10
        logits, gap = normal(generator, 2, size, dtype=torch.float64)
        yield {"logits": logits, "reference": logits + (0.1, 1.0, 3.0)[seed % 3] * gap}


def exact_kl(case: Case) -> float:
    p, q = log_softmax(case["logits"]), log_softmax(case["reference"])
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def every_word(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each word as a response of one token: log-probabilities (V, 1) of policy and reference, and a mask."""
    logprobs, reference = (case[name].log_softmax(dim=-1)[:, None] for name in ("logits", "reference"))
    return logprobs, reference, torch.ones_like(logprobs, dtype=torch.bool)


def expectation(kind: str) -> Claim:
    """The mean of the estimate over what the policy would sample; no gradient is claimed."""

    def ours(case: Case) -> torch.Tensor:
        logprobs, reference, mask = every_word(case)
        return (logprobs.exp() * ppo.kl_estimates(logprobs, reference, mask, kind)).sum()

    return Claim(
        f"expectation of {kind} = KL",
        ppo.kl_estimates,
        SCHULMAN,
        "tests/test_ppo_loss.py::test_k1_and_k3_meet_the_exact_divergence_and_k2_comes_near_it",
        vocabularies,
        ours,
        exact_kl,
        "the exact KL(π ‖ π_ref) over the whole vocabulary",
        peer_is="an identity: no peer needed",
        bound=FLOAT64,
        formula=rf"E_\pi[{kind[0]}_{kind[1]}] = KL(\pi \| \pi_{{ref}})",
    )


def in_the_loss(kind: str) -> Claim:
    """The expected gradient of the term as it stands in GRPO's loss: of words that the policy itself sampled."""

    def ours(case: Case) -> Graded:
        logits = case["logits"].clone().requires_grad_()
        logprobs, reference, mask = every_word({**case, "logits": logits})
        old = logprobs.detach()
        term = grpo.kl_term(logprobs, reference, logprobs - old, mask, kind)
        return Graded(None, torch.autograd.grad((old.exp() * term).sum(), logits)[0])

    def oracle(case: Case) -> Graded:
        return Graded(None, [slope(case, place) for place in range(len(case["logits"]))])

    return Claim(
        f"gradient of {kind} in a loss",
        grpo.kl_term,
        SCHULMAN,
        ORACLES + "test_k2_and_k3_times_the_ratio_have_the_gradient_of_the_divergence",
        vocabularies,
        ours,
        oracle,
        ENUMERATED,
        peer_is="`use_bias_correction_kl`: compared in GRPO's table" if kind == "k3" else "has none",
        bound=Bound(1e-8, "float64, the oracle's slope by finite differences"),
        formula=rf"E_{{\pi_{{old}}}}[\nabla (\rho \, k_{kind[1]})] = \nabla KL(\pi \| \pi_{{ref}})",
    )


def slope(case: Case, place: int, step: float = 1e-4) -> float:
    """Of the exact divergence by one logit."""

    def moved(by: float) -> float:
        logits = [x + by * (i == place) for i, x in enumerate(case["logits"])]
        return exact_kl({**case, "logits": logits})

    return (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)


def k1_in_a_loss(case: Case) -> Graded:
    logits = case["logits"].clone().requires_grad_()
    logprobs, reference, mask = every_word({**case, "logits": logits})
    k1 = ppo.kl_estimates(logprobs, reference, mask, "k1")
    return Graded(None, torch.autograd.grad((logprobs.detach().exp() * k1).sum(), logits)[0])


def penalty(case: Case) -> list[float]:
    """Each word once, as a response of two tokens: what is reported in nats per response."""
    logprobs, reference, mask = every_word(case)
    both = [torch.cat([each, each], dim=1) for each in (logprobs, reference, mask)]
    found = ppo.kl_penalty(*both)[1]
    return [found["kl"], found["kl_k3"]]


def penalty_by_definition(case: Case) -> list[float]:
    p, q = log_softmax(case["logits"]), log_softmax(case["reference"])
    d = [a - b for a, b in zip(p, q, strict=True)]
    return [2 * math.fsum(d) / len(d), 2 * math.fsum(math.exp(-x) - 1 + x for x in d) / len(d)]


CLAIMS = [
    expectation("k1"),
    expectation("k3"),
    in_the_loss("k2"),
    in_the_loss("k3"),
    Claim(
        "gradient of k1 in a loss: none",
        ppo.kl_estimates,
        SCHULMAN,
        ORACLES + "test_k1_in_the_loss_pushes_nowhere_on_average",
        vocabularies,
        k1_in_a_loss,
        lambda case: Graded(None, [0.0] * len(case["logits"])),
        "zero: the score function has mean 0",
        peer_is="an identity: no peer needed",
        bound=FLOAT64,
        formula=r"E_\pi[\nabla k_1] = 0",
    ),
    Claim(
        "divergence as it is logged",
        ppo.kl_penalty,
        SCHULMAN,
        "tests/test_ppo_loss.py::test_the_penalty_reports_nats_per_response_and_nothing_of_padding",
        vocabularies,
        penalty,
        penalty_by_definition,
        "sums over tokens, means over responses",
        peer_is="logs per token",
        bound=FLOAT64,
        formula=r"\frac1B \sum_i \sum_t k_{i,t}",
    ),
]
