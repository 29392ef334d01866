"""Claims about writing: the distribution that is sampled, and texts that do not depend on their batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

import auto_bot_tuner.evaluation.sampling as sampling
from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import generate
from proof.cases import dice, normal, whole
from proof.claims import EXACT, MODEL, Bound, Case, Claim, Paper
from proof.oracles import language as definition
from proof.oracles.arithmetic import log_softmax
from proof.sft import WORDS, model_of

TESTS = "tests/test_engine.py::"
BY_TRANSFORMERS = "has none of its own: it calls transformers or vLLM"
DRAWS = 40_000
STOPS = range(WORDS - 12, WORDS)


def distributions() -> Iterator[Case]:
    """Temperatures from 0.3 to 2 with and without top-k and top-p; logits up to ±60."""
    for seed in range(48):
        generator = dice(seed)
        yield {
            "logits": (1.0, 5.0, 20.0)[seed % 3] * normal(generator, 3, whole(generator, 2, 12)),
            "temperature": (0.3, 0.7, 1.0, 2.0)[seed % 4],
            "top_k": (0, 0, 3, 5)[seed // 4 % 4],
            "top_p": (1.0, 0.9, 1.0, 0.5)[seed // 4 % 4],
        }


def config_of(case: Case) -> GenerationConfig:
    return GenerationConfig(temperature=case["temperature"], top_k=case["top_k"], top_p=case["top_p"])


def sampled(case: Case) -> torch.Tensor:
    return sampling.next_token_logprobs(case["logits"], config_of(case)).exp()


def only(**settings: float) -> Iterator[Case]:
    return (case | settings for case in distributions())


def top_k(case: Case) -> torch.Tensor:
    return sampling.keep_top_k(case["logits"], case["top_k"]).softmax(dim=-1)


def top_p(case: Case) -> torch.Tensor:
    return sampling.keep_top_p(case["logits"], case["top_p"]).softmax(dim=-1)


def few_words() -> Iterator[Case]:
    for seed in range(6):
        yield {
            "logits": 1.5 * normal(dice(seed), 1, 7),
            "temperature": (0.7, 1.0, 1.5)[seed % 3],
            "top_k": 0,
            "top_p": 1.0,
        }


def frequencies(case: Case) -> torch.Tensor:
    """Of forty thousand draws, each text with a stream of its own."""
    logprobs = sampling.next_token_logprobs(case["logits"], config_of(case)).expand(DRAWS, -1)
    uniforms = sampling.uniform_stream((42, 7), DRAWS)
    return torch.bincount(sampling.draw(logprobs, uniforms), minlength=logprobs.shape[1]) / DRAWS


def a_grid(case: Case) -> torch.Tensor:
    """Of evenly spaced uniforms: the inverse CDF itself, no luck."""
    logprobs = sampling.next_token_logprobs(case["logits"], config_of(case)).expand(DRAWS, -1)
    uniforms = (torch.arange(DRAWS) + 0.5) / DRAWS
    return torch.bincount(sampling.draw(logprobs, uniforms), minlength=logprobs.shape[1]) / DRAWS


def penalised() -> Iterator[Case]:
    for seed in range(12):
        logits = 4 * normal(dice(seed), 2, 9)
        yield {"logits": logits, "seen": normal(dice(seed + 50), 2, 9) > 0, "penalty": 1.3}


def by_hand(case: Case) -> list[float]:
    flat = [x for row in zip(case["logits"], case["seen"], strict=True) for x in zip(*row, strict=True)]
    return [z if not seen else z / case["penalty"] if z > 0 else z * case["penalty"] for z, seen in flat]


def prompts() -> Iterator[Case]:
    for seed, family in enumerate(("gpt2", "llama", "qwen2")):
        generator = dice(seed)
        rows = [torch.randint(1, WORDS, (whole(generator, 1, 9),), generator=generator).tolist() for _ in range(4)]
        yield {"family": family, "prompts": rows, "temperature": (0.7, 1.0, 1.4)[seed]}


def texts(case: Case, batch_tokens: int = 4096) -> list[Any]:
    config = GenerationConfig(temperature=case["temperature"], max_new_tokens=10, batch_tokens=batch_tokens)
    return generate(model_of(case).eval(), case["prompts"], config, STOPS, samples_per_prompt=3)


def logprobs(case: Case) -> list[float]:
    return [x for text in texts(case) for x in text.logprobs]


def logprobs_one_by_one(case: Case) -> list[float]:
    """Of the same tokens: one plain forward of each text, no cache, no padding, no batch."""
    model, found = model_of(case).eval(), []
    for number, text in enumerate(texts(case)):
        prompt = case["prompts"][number // 3]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + text.token_ids]), use_cache=False).logits[0].double()
        for place, token in enumerate(text.token_ids):
            found.append(log_softmax((logits[len(prompt) - 1 + place] / case["temperature"]).tolist())[token])
    return found


def streams() -> Iterator[Case]:
    yield {"keys": [(42, row, sample) for row in range(40) for sample in range(5)]}


def moments(case: Case) -> list[float]:
    """Mean, mean square and neighbours' product of 200 streams of 500: those of a uniform number."""
    drawn = torch.stack([sampling.uniform_stream(key, 500) for key in case["keys"]]).double()
    repeats = len(drawn) - len({tuple(row[:8].tolist()) for row in drawn})
    return [
        drawn.mean(),
        drawn.square().mean(),
        (drawn[:, 1:] * drawn[:, :-1]).mean(),
        (drawn[1:] * drawn[:-1]).mean(),
        repeats,
    ]


LUCK = Bound(5 * 0.5 / math.sqrt(DRAWS), f"five standard errors of a share in {DRAWS:,} draws")
CLAIMS = [
    Claim(
        "the distribution that is sampled",
        sampling.next_token_logprobs,
        Paper("definition"),
        TESTS + "test_top_k_and_top_p_renormalise_over_the_tokens_that_stay",
        distributions,
        sampled,
        definition.filtered,
        "softmax, the k likeliest, the nucleus, renormalised: word by word",
        peer_is=BY_TRANSFORMERS,
        formula=r"\mathrm{softmax}(z / T)",
    ),
    Claim(
        "top-k",
        sampling.keep_top_k,
        Paper("Fan et al. 2018", "1805.04833"),
        TESTS + "test_top_k_and_top_p_renormalise_over_the_tokens_that_stay",
        lambda: only(temperature=1.0, top_k=3, top_p=1.0),
        top_k,
        definition.filtered,
        "sorted, cut, renormalised",
        peer_is=BY_TRANSFORMERS,
        formula=r"z_v \ge z_{(k)}",
    ),
    Claim(
        "nucleus",
        sampling.keep_top_p,
        Paper("Holtzman et al. 2020, §3.1", "1904.09751"),
        TESTS + "test_top_k_and_top_p_renormalise_over_the_tokens_that_stay",
        lambda: only(temperature=1.0, top_k=0, top_p=0.8),
        top_p,
        definition.filtered,
        "sorted, summed up to p, renormalised",
        peer_is=BY_TRANSFORMERS,
        formula=r"\sum_{\text{likelier}} p < p_{top}",
    ),
    Claim(
        "repetition penalty",
        sampling.penalise_repetition,
        Paper("Keskar et al. 2019 (CTRL), §4.1", "1909.05858"),
        TESTS + "test_greedy_equals_transformers_token_for_token",
        penalised,
        lambda case: sampling.penalise_repetition(case["logits"], case["seen"], case["penalty"]),
        by_hand,
        "logit by logit",
        peer_is=BY_TRANSFORMERS,
        formula=r"z / \theta \; (z > 0), \; z\theta",
    ),
    Claim(
        "a draw: inverse CDF",
        sampling.draw,
        Paper("definition"),
        TESTS + "test_sampled_frequencies_are_the_models_probabilities",
        few_words,
        a_grid,
        definition.filtered,
        f"exact probabilities; {DRAWS:,} evenly spaced uniforms",
        peer_is=BY_TRANSFORMERS,
        bound=Bound(2 / DRAWS, "each word's share is known to one step of the grid at either end"),
        formula=r"\min \{v : F(v) > u\}",
    ),
    Claim(
        "frequencies of draws",
        sampling.draw,
        Paper("definition"),
        TESTS + "test_sampled_frequencies_are_the_models_probabilities",
        few_words,
        frequencies,
        definition.filtered,
        f"exact probabilities; {DRAWS:,} random draws",
        peer_is=BY_TRANSFORMERS,
        bound=LUCK,
        formula=r"\frac{n_v}{n} \to p_v",
    ),
    Claim(
        "noise: a stream for each text",
        sampling.uniform_stream,
        Paper("definition"),
        TESTS + "test_uniform_streams_differ_in_every_coordinate_and_are_uniform",
        streams,
        moments,
        lambda case: [1 / 2, 1 / 3, 1 / 4, 1 / 4, 0],
        "moments of independent uniforms; no two streams alike",
        peer_is=BY_TRANSFORMERS,
        bound=Bound(0.005, "five standard errors of 100,000 numbers"),
        formula=r"u \sim U[0, 1)",
    ),
    Claim(
        "log-probabilities of what was written",
        generate,
        Paper("padded = unpadded, left = right"),
        TESTS + "test_logprobs_are_those_of_a_plain_forward_pass_at_the_temperature",
        prompts,
        logprobs,
        logprobs_one_by_one,
        "one plain forward of each text alone: no cache, no padding, no batch",
        peer_is=BY_TRANSFORMERS,
        bound=MODEL,
        formula=r"\log \pi_\theta(y_t \mid y_{<t})^{1/T} / Z",
    ),
    Claim(
        "a text does not depend on its batch",
        generate,
        Paper("batched = one by one"),
        TESTS + "test_a_text_does_not_depend_on_its_batch_mates",
        prompts,
        lambda case: [text.token_ids for text in texts(case)],
        lambda case: [text.token_ids for text in texts(case, batch_tokens=1)],
        "one text at a time",
        peer_is=BY_TRANSFORMERS,
        bound=EXACT,
        formula=r"y = f(\text{seed}, \text{prompt}, \text{sample})",
    ),
]
