"""Claims about the estimators of evaluation: perplexity, intervals, pass@k, best-of-n, win rates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from auto_bot_tuner.evaluation import accuracy, best_of, intervals, perplexity, quality, win_rates
from auto_bot_tuner.evaluation.perplexity import ScoredRow
from proof.cases import dice, normal, whole
from proof.claims import EXACT, FLOAT32, FLOAT64, MODEL, Bound, Case, Claim, Paper
from proof.oracles import estimators as definition
from proof.oracles.arithmetic import mean
from proof.sft import model_of, models, tokens_one_by_one

NONE = "has none"
WILSON = Paper("Wilson 1927")


def losses() -> Iterator[Case]:
    for seed in range(12):
        generator = dice(seed)
        yield {"rows": [normal(generator, whole(generator, 1, 30)).abs().double().numpy() for _ in range(1 + seed)]}


def perplexity_of(case: Case) -> float:
    import numpy as np

    return perplexity.perplexity_of(ScoredRow(np.arange(len(row)), row) for row in case["rows"])["perplexity"]


def on_a_model(case: Case) -> float:
    return perplexity.compute_perplexity_on_dataset(model_of(case).eval(), case["rows"])["perplexity"]


def token_by_token(case: Case) -> float:
    logprobs = [x for x in tokens_one_by_one(case, 1.0) if x != 0.0]
    return math.exp(-mean(logprobs))


def texts_and_windows() -> Iterator[Case]:
    for length in (1, 2, 5, 8, 9, 16, 31):
        for width in (2, 4, 8):
            yield {"length": length, "width": width}


def windows(case: Case) -> list[int]:
    """Of each token how much context it has, in order; every one is labelled once."""
    ids, found = list(range(case["length"])), []
    for part in perplexity.sliding_windows({"input_ids": ids, "labels": ids}, case["width"]):
        found += [(label, place) for place, label in enumerate(part["labels"]) if label != -100]
    assert [label for label, _ in found] == ids
    return [place for _, place in found]


def windows_by_definition(case: Case) -> list[int]:
    from proof.oracles.language import windows_once

    return windows_once(case["length"], case["width"])


def shares() -> Iterator[Case]:
    yield {"shares": [(k, n) for n in (1, 2, 3, 10, 50) for k in range(n + 1)] + [(2.5, 4), (980, 1000), (1, 100_000)]}


def wilson(case: Case) -> list[tuple[float, float]]:
    return [intervals.Share(k, n).interval for k, n in case["shares"]]


def clusters() -> Iterator[Case]:
    for seed in range(12):
        generator = dice(seed)
        names = [whole(generator, 0, 4) for _ in range(30)]
        leaning = normal(generator, 5)
        marks = [float(leaning[name] + normal(generator, 1)[0] > 0) for name in names]
        yield {"marks": marks, "clusters": names}


def few_values() -> Iterator[Case]:
    for seed in range(3):
        yield {"values": normal(dice(seed), 6).double().tolist()}


def draws() -> Iterator[Case]:
    yield {"draws": [(k, n, c) for n in (1, 2, 5, 8) for k in range(1, n + 1) for c in range(n + 1)]}


def scores() -> Iterator[Case]:
    """Eight responses to three prompts; with ties in every second case; chosen by one score, measured by another."""
    for seed in range(8):
        found = normal(dice(seed), 2, 3, 7)
        yield {"scores": found[0].round() if seed % 2 else found[0], "values": found[1], "k": 1 + seed % 7}


def outcomes() -> Iterator[Case]:
    for seed in range(12):
        first, second = normal(dice(seed), 2, 20).round().tolist()
        yield {"first": first, "second": second}


def win_rate(case: Case) -> float:
    return win_rates.win_rate(win_rates.outcomes_of_scores(case["first"], case["second"])).rate


def written() -> Iterator[Case]:
    words = ["the", "cat", "sat", "on", "mat", "dog"]
    for seed in range(6):
        ids = torch.randint(6, (4, 3 + seed), generator=dice(seed)).tolist()
        yield {"texts": [" ".join(words[i] for i in row) for row in ids]}


def diversity(case: Case) -> dict[str, float]:
    found: dict[str, Any] = quality.compute_diversity_metrics(case["texts"])
    return {name: found[name] for name in ("distinct_1", "distinct_2")}


CLAIMS = [
    Claim(
        "perplexity, weighed by tokens",
        perplexity.perplexity_of,
        Paper("Jelinek et al. 1977"),
        "tests/test_perplexity.py::test_perplexity_weighs_tokens_not_texts",
        losses,
        perplexity_of,
        lambda case: math.exp(mean([float(x) for row in case["rows"] for x in row])),
        "all tokens in one sum",
        peer_is=NONE,
        bound=FLOAT64,
        formula=r"\exp(-\frac1N \sum_t \log p(x_t \mid x_{<t}))",
    ),
    Claim(
        "perplexity of a data set",
        perplexity.compute_perplexity_on_dataset,
        Paper("as above"),
        "tests/test_perplexity.py::test_only_trained_tokens_of_a_dataset_count",
        models,
        on_a_model,
        token_by_token,
        "each row alone, float64 softmax of all logits",
        peer_is=NONE,
        bound=MODEL,
        formula="as above",
    ),
    Claim(
        "sliding window",
        perplexity.sliding_windows,
        Paper("Press et al. 2021, §2", "2012.15832"),
        "tests/test_perplexity.py::test_windows_score_each_token_once_and_with_context",
        texts_and_windows,
        windows,
        windows_by_definition,
        "the context of each token, counted; each is scored once",
        peer_is=NONE,
        bound=EXACT,
        formula=r"\text{stride} = \text{width} / 2",
    ),
    Claim(
        "Wilson interval",
        intervals.Share.interval.fget,
        WILSON,
        "tests/test_quality.py::test_wilson_intervals_of_the_literature",
        shares,
        wilson,
        definition.wilson,
        "the shares that a score test does not refuse, by halving",
        peer_is=NONE,
        bound=FLOAT64,
        formula=r"\frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}",
    ),
    Claim(
        "effective number of clustered answers",
        intervals.effective_number,
        Paper("Kish 1965, §8.2"),
        "tests/test_reward_report.py::test_pairs_of_one_prompt_are_not_independent",
        clusters,
        lambda case: intervals.effective_number(case["marks"], case["clusters"]),
        definition.clustered,
        "the variance between clusters, cluster by cluster",
        peer_is=NONE,
        bound=FLOAT64,
        formula=r"p(1-p) / v",
    ),
    Claim(
        "bootstrap interval",
        intervals.bootstrap_interval,
        Paper("Efron 1979"),
        "tests/test_reward_report.py::test_the_bootstrap_approaches_the_enumeration_of_all_resamples",
        few_values,
        lambda case: intervals.bootstrap_interval(case["values"]),
        definition.bootstrap,
        "all 46,656 resamples of six values",
        peer_is=NONE,
        bound=Bound(0.06, "a quantile of 10,000 random resamples"),
        formula=r"q_{0.025}, q_{0.975}",
    ),
    Claim(
        "pass@k",
        accuracy.pass_at,
        Paper("Chen et al. 2021, eq. 1", "2107.03374"),
        "tests/test_quality.py::test_pass_at_k_is_the_share_of_choices_with_a_right_one",
        draws,
        lambda case: [accuracy.pass_at(*draw) for draw in case["draws"]],
        definition.pass_at,
        "all choices of k of n, as fractions",
        peer_is=NONE,
        bound=FLOAT64,
        formula=r"1 - \binom{n-c}{k} / \binom{n}{k}",
    ),
    Claim(
        "what best-of-k is worth",
        best_of.expected_best,
        Paper("Nakano et al. 2021, app. I", "2112.09332"),
        "tests/test_best_of.py::test_the_worth_of_best_of_k_is_its_mean_over_all_choices_of_k",
        scores,
        lambda case: best_of.expected_best(case["scores"], case["k"], case["values"]),
        definition.expected_best,
        "all choices of k of the n; ties go to the first",
        peer_is=NONE,
        bound=FLOAT32,
        formula=r"\sum_i \binom{i-1}{k-1} / \binom{n}{k} \, s_i",
    ),
    Claim(
        "divergence of best-of-n",
        best_of.best_of_kl,
        Paper("Stiennon et al. 2020, app. G.3", "2009.01325"),
        "tests/test_best_of.py::test_the_formula_bounds_the_exact_divergence",
        lambda: iter([{"sizes": [1, 2, 4, 8, 64], "outcomes": 100_000}]),
        lambda case: [best_of.best_of_kl(n) for n in case["sizes"]],
        definition.best_of_kl,
        "the exact KL of the best of n among 100,000 equally likely outcomes",
        peer_is=NONE,
        bound=Bound(1e-6, "outcomes are many, not endless"),
        formula=r"\log n - \frac{n-1}{n}",
    ),
    Claim(
        "win rate",
        win_rates.win_rate,
        Paper("ties count half"),
        "tests/test_win_rate.py::test_ties_count_half",
        outcomes,
        win_rate,
        definition.win_rate,
        "counted",
        peer_is=NONE,
        bound=FLOAT64,
        formula=r"(\text{wins} + \text{ties}/2) / n",
    ),
    Claim(
        "diversity",
        quality.compute_diversity_metrics,
        Paper("Li et al. 2016", "1510.03055"),
        "tests/test_quality.py::test_diversity_by_hand",
        written,
        diversity,
        definition.diversity,
        "n-grams counted",
        peer_is=NONE,
        bound=FLOAT64,
        formula=r"\frac{\text{different } n\text{-grams}}{n\text{-grams}}",
    ),
]
