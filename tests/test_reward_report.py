"""The report card of a reward model against numbers worked by hand, planted scorers, and exact enumeration."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from auto_bot_tuner.evaluation import baselines
from auto_bot_tuner.evaluation.baselines import PENALTY, bag_of_words, differences, fit
from auto_bot_tuner.evaluation.charts import draw_reward_report
from auto_bot_tuner.evaluation.intervals import Share, bootstrap_interval, effective_number, share_won
from auto_bot_tuner.evaluation.probes import FILLER, probe
from auto_bot_tuner.evaluation.report_card import RewardReport, ece_by_chance, reward_report
from auto_bot_tuner.evaluation.reward_evaluation import evaluate_reward_model, read_pairs
from auto_bot_tuner.evaluation.verdicts import verdicts
from auto_bot_tuner.utils.errors import UserError

EDGES = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def report_of(margins: Sequence[float], **settings: Any) -> RewardReport:
    """The card of a scorer with these margins; both sides equally long unless said otherwise."""
    lengths = {"chosen_lengths": [10] * len(margins), "rejected_lengths": [10] * len(margins), **settings}
    return reward_report(margins, [0.0] * len(margins), **lengths)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_bootstrap_approaches_the_enumeration_of_all_resamples() -> None:
    """Of 5 values there are 5^5 = 3125 resamples, all equally likely: the exact percentiles."""
    values = [0.0, 0.2, 0.5, 0.5, 1.0]
    means = sorted(fmean(draw) for draw in itertools.product(values, repeat=5))
    exact = means[round(0.025 * len(means))], means[round(0.975 * len(means))]
    assert bootstrap_interval(values, resamples=200_000) == pytest.approx(exact, abs=0.011)
    medians = sorted(np.median(draw) for draw in itertools.product(values, repeat=5))
    exact = medians[round(0.025 * len(medians))], medians[round(0.975 * len(medians))]
    assert bootstrap_interval(values, np.median) == pytest.approx(exact)


def test_the_bootstrap_of_a_share_is_near_the_normal_interval_and_its_seed_decides() -> None:
    values = [1.0] * 240 + [0.0] * 160
    half = 1.96 * (0.6 * 0.4 / 400) ** 0.5
    assert bootstrap_interval(values) == pytest.approx((0.6 - half, 0.6 + half), abs=0.005)
    assert bootstrap_interval(values, seed=7) == bootstrap_interval(values, seed=7)
    assert bootstrap_interval([0.5] * 9) == (0.5, 0.5)


def test_the_bootstrap_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.exponential(1.0, size=(400, 60))  # skewed, and of mean 1
    inside = [low <= 1 <= high for low, high in (bootstrap_interval(row, resamples=500) for row in samples)]
    assert 0.90 <= fmean(inside) <= 0.97


# --- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    """Four pairs claimed at 0.75, three right; two at 0.95, one right. |0.75-0.75| 4/6 + |0.95-0.5| 2/6 = 0.15."""
    sure, surer = logit(0.75), logit(0.95)
    report = report_of([sure, sure, sure, -sure, surer, -surer])
    assert [(bin.right, round(bin.confidence, 9)) for bin in report.calibration] == [
        (Share(3, 4), 0.75),
        (Share(1, 2), 0.95),
    ]
    assert [(bin.low, bin.high) for bin in report.calibration] == [pytest.approx((0.7, 0.8)), pytest.approx((0.9, 1.0))]
    assert report.ece == pytest.approx(0.15)
    assert report.overconfidence == pytest.approx((4 * 0.75 + 2 * 0.95) / 6 - 4 / 6)
    # Mean distance of a normal variable of variance c(1-c)/n is sqrt(2 c(1-c) / (pi n)).
    chance = 4 / 6 * math.sqrt(2 * 0.1875 / (math.pi * 4)) + 2 / 6 * math.sqrt(2 * 0.0475 / (math.pi * 2))
    assert report.ece_by_chance == pytest.approx(chance)


def planted(count: int, sharpness: float = 1.0, seed: int = 0) -> list[float]:
    """Margins of a scorer that knows the true probabilities; `sharpness` multiplies what it claims."""
    rng = random.Random(seed)
    true = [abs(rng.gauss(0, 1.5)) for _ in range(count)]
    return [sharpness * m * (1 if rng.random() < 1 / (1 + math.exp(-m)) else -1) for m in true]


def test_a_calibrated_scorer_has_no_error_and_an_overconfident_one_has_what_it_overclaims() -> None:
    calibrated = report_of(planted(40_000))
    assert calibrated.ece < 0.01 and abs(calibrated.overconfidence) < 0.01
    over = report_of(planted(40_000, sharpness=3.0))
    assert over.accuracy == calibrated.accuracy  # the order is the same
    assert over.ece > 0.1 and over.overconfidence == pytest.approx(over.ece, abs=0.01)
    assert any("Overconfident" in sentence for sentence in verdicts(over))
    modest = report_of(planted(40_000, sharpness=0.3))
    assert any("Too modest" in sentence for sentence in verdicts(modest))
    assert not any("confident" in sentence or "modest" in sentence for sentence in verdicts(calibrated))


def test_the_error_by_chance_is_what_calibrated_scorers_show() -> None:
    """The mean over 200 calibrated scorers of 100 pairs each; the formula knows only what they claim."""
    reports = [report_of(planted(100, seed=seed)) for seed in range(200)]
    assert fmean(report.ece for report in reports) == pytest.approx(
        fmean(report.ece_by_chance for report in reports), rel=0.1
    )
    assert ece_by_chance([0.75] * 4, EDGES) == pytest.approx(math.sqrt(2 * 0.1875 / (math.pi * 4)))


# --- accuracy, cut in every way --------------------------------------------------------------------------------------


def test_accuracy_by_category_length_and_gap_by_hand() -> None:
    margins = [4.0, -0.1, 2.0, 0.3, 0.0, -3.0, 1.0, 0.2]
    report = report_of(
        margins,
        categories=["wrong", "wrong", "rude", "rude", "rude", "", "wrong", "rude"],
        chosen_lengths=[5, 10, 20, 10, 10, 30, 10, 12],
        rejected_lengths=[10, 10, 10, 11, 9, 10, 20, 10],
    )
    assert (report.accuracy, report.ties) == (Share(5.5, 8), 1)  # the tie counts half
    assert report.by_category == {"rude": Share(3.5, 4), "wrong": Share(2, 3), "all": Share(0, 1)}
    # 10 and 11, 10 and 9 are within a tenth of the longer; 12 and 10 are not.
    assert report.by_length == {
        "chosen side shorter": Share(2, 2),
        "about as long": Share(1.5, 3),
        "chosen side longer": Share(2, 3),
    }
    assert list(report.by_length) == ["chosen side shorter", "about as long", "chosen side longer"]
    # Gaps in order: 0 0.1 | 0.2 0.3 | 1 2 | 3 4, quartiles by linear interpolation between them.
    assert [bin.right for bin in report.by_gap] == [Share(0.5, 2), Share(2, 2), Share(2, 2), Share(1, 2)]
    assert [bin.low for bin in report.by_gap] == pytest.approx(list(np.quantile(np.abs(margins), [0, 0.25, 0.5, 0.75])))
    # Longer side chosen in rows 2, 4, 5, 7; equal in row 1; so 4.5 of 8.
    assert report.baselines["prefer the longer"].right == Share(4.5, 8)
    assert report.baselines["prefer the shorter"].right == Share(3.5, 8)
    # The longer side scores higher in rows 2 and 7, not in 0, 3, 5, 6, and row 4 is a tie.
    assert report.prefers_longer == Share(2.5, 7)


def test_a_constant_scorer_has_a_half_of_everything() -> None:
    report = report_of([0.0] * 40)
    assert report.accuracy == Share(20, 40) and report.ties == 40
    assert [bin.right for bin in report.by_gap] == [Share(20, 40)]
    assert "coin" in verdicts(report)[0]


@pytest.mark.parametrize(("scores", "words"), [([], "no pair"), ([1.0, math.nan], "finite")])
def test_no_pairs_and_broken_scores_are_one_line(scores: list[float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        report_of(scores)


# --- baselines -------------------------------------------------------------------------------------------------------


def test_the_bag_of_words_is_at_the_minimum_of_its_loss() -> None:
    """At a minimum the gradient is zero, and any step away from it costs: both by definition, not by its own code."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    weights = fit(x).numpy()
    z = x.numpy() @ weights
    gradient = PENALTY * weights - x.numpy().T @ (1 / (1 + np.exp(z)))
    assert np.abs(gradient).max() < 1e-3

    def loss(w: np.ndarray) -> float:
        return float(np.log1p(np.exp(-(x.numpy() @ w))).sum() + PENALTY / 2 * (w @ w))

    for step in np.eye(6) * 0.01:
        assert loss(weights) < min(loss(weights + step), loss(weights - step))


def test_words_and_their_counts() -> None:
    found = differences([("yes yes, sure", "Yes no?")], {"yes": 0, "no": 1, ",": 2, "unseen": 3})
    assert found.tolist() == [pytest.approx([math.log(3) - math.log(2), -math.log(2), math.log(2), 0.0])]


def test_a_bag_of_words_finds_a_planted_word_and_nothing_in_noise() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(50)]

    def text() -> str:
        return " ".join(rng.choices(vocabulary, k=12))

    pairs = [(f"{text()} please", text()) for _ in range(200)]
    baseline = bag_of_words(pairs[:150], pairs[150:])
    assert baseline.right == Share(50, 50) and baseline.fitted_on == 150
    noise = [(text(), text()) for _ in range(800)]
    assert abs(bag_of_words(noise[:400], noise[400:]).right.value - 0.5) < 3 * (0.25 / 400) ** 0.5  # three sigma
    in_another_order = [(" ".join(reversed(a.split())), a) for a, _ in noise]
    assert bag_of_words(in_another_order[:400], in_another_order[400:]).right == Share(200, 400)  # all ties


def test_a_bag_of_words_is_fitted_on_some_of_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its matrix is as long as the pairs are many: those of a large data set would fill the memory."""
    monkeypatch.setattr(baselines, "MOST_PAIRS", 30)
    pairs = [(f"{i} please", f"{i}") for i in range(100)]
    baseline = bag_of_words(pairs, pairs[:10])
    assert baseline.fitted_on == 30 and baseline.right == Share(10, 10)


# --- probes ----------------------------------------------------------------------------------------------------------

PROMPTS = [[{"role": "user", "content": f"Why {i}?"}] for i in range(3)]
ANSWERS = ["The cow eats green grass.", "One two three four", "Yes"]


def test_probes_of_a_scorer_that_counts_words_and_ends() -> None:
    """One nat per word, ten for the end token: what each probe changes can be counted."""

    def score(prompts: Sequence[Any], answers: Sequence[str], ended: Sequence[bool]) -> list[float]:
        assert len(prompts) == len(answers)
        return [len(answer.split()) + 10 * end for answer, end in zip(answers, ended, strict=True)]

    found = {one.name: one for one in probe(score, PROMPTS, ANSWERS)}
    cut = found["cut off half way"]
    assert cut.lowered == Share(2, 2) and cut.mean_change == fmean([-3 - 10, -2 - 10])  # nothing is left of "Yes"
    assert found["without its end token"].lowered == Share(3, 3)
    assert found["without its end token"].mean_change == -10
    assert found["said twice"].lowered == Share(0, 3) and found["said twice"].mean_change == fmean([5, 4, 1])
    for where in ("after filler", "followed by filler"):
        assert found[where].mean_change == len(FILLER.split()) and found[where].lowered == Share(0, 3)


def test_a_scorer_that_looks_at_nothing_is_moved_by_no_probe() -> None:
    found = probe(lambda prompts, answers, ended: [1.0] * len(answers), PROMPTS, ANSWERS)
    assert all(one.mean_change == 0 and one.lowered.value == 0.5 for one in found)
    with pytest.raises(UserError, match="no answer to probe"):
        probe(lambda *_: [], [], [])


# --- words -----------------------------------------------------------------------------------------------------------


def test_verdicts_name_what_is_wrong() -> None:
    """800 pairs: right on all that differ in manners, a coin on correctness; only long answers are liked."""
    rng = random.Random(1)
    manners = [logit(0.9)] * 380 + [-logit(0.9)] * 20
    correctness = [rng.choice([-1, 1]) * logit(0.9) for _ in range(400)]
    right = [margin > 0 for margin in manners + correctness]
    report = report_of(
        manners + correctness,
        categories=["rude"] * 400 + ["wrong"] * 400,
        chosen_lengths=[20 if good else 10 for good in right],
        rejected_lengths=[10 if good else 20 for good in right],
    )
    told = "\n".join(verdicts(report))
    assert 'The rule "prefer the longer" does as well' in told
    assert "At chance on wrong" in told and "rude" not in told
    assert "leans to long answers" in told and "Overconfident: its margins claim 90%" in told
    reverse = report_of([1.0] * 300 + [-1.0] * 40, categories=["a"] * 300 + ["polite lies"] * 40)
    assert any("Worse than chance on polite lies" in sentence for sentence in verdicts(reverse))
    assert "too few" in verdicts(report_of([1.0] * 5))[0]


def test_a_good_model_is_told_so_and_probes_are_named() -> None:
    margins = planted(2000)
    (sentence,) = verdicts(report_of(margins))
    assert "Nothing stands out" in sentence
    liked = probe(lambda _, answers, __: [float(len(a)) for a in answers], PROMPTS * 10, ["One two three"] * 30)
    told = verdicts(report_of(margins, probes=liked))
    assert [sentence.split(":")[0] for sentence in told] == [
        "It does not mind an answer said twice",
        "It does not mind an answer after filler",
        "It does not mind an answer followed by filler",
    ]  # cut off it scores less; without its end token the same, which is a tie and no preference


# --- rows → card → picture -------------------------------------------------------------------------------------------


class Stub(torch.nn.Module):
    """Scores a row by how often one token id stands in it."""

    def __init__(self, token: int):
        super().__init__()
        self.token, self.device = token, torch.device("cpu")
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=128))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return ((input_ids == self.token) & attention_mask.bool()).sum(1).float()


def test_rows_of_every_format_become_pairs_and_are_scored_as_training_reads_them(gpt2_tokenizer: Any) -> None:
    (token,) = gpt2_tokenizer(" please")["input_ids"]
    hh = "\n\nHuman: Hi\n\nAssistant: "
    rows = [
        {"prompt": "a", "chosen": "yes please", "rejected": "no", "category": "rude"},
        {"chosen": f"{hh}now please", "rejected": f"{hh}go please please"},
        {"prompt": "b", "responses": ["x", "x please", "x please please"], "ranking": [2, 1, 0]},
        {"prompt": "c", "chosen": "same", "rejected": "same"},
    ]
    found = read_pairs(rows)
    assert len(found.pairs) == 5 and found.left_out == {"identical responses": 1}
    report = evaluate_reward_model(Stub(token), gpt2_tokenizer, found.pairs, found.pairs, batch_size=2)
    # Three of the five pairs are of one prompt: they count as fewer in the interval.
    # Deviations from 0.8 by prompt: 0.2, -0.8 and 3 x 0.2. n_eff = 0.16 / (3/2 (0.2^2 + 0.8^2 + 0.6^2) / 5^2).
    assert (report.accuracy.k, report.accuracy.n) == (4, 5)
    assert report.accuracy.effective == pytest.approx(0.16 / 0.0624)
    assert {name: (share.k, share.n) for name, share in report.by_category.items()} == {"all": (3, 4), "rude": (1, 1)}
    assert report.baselines["a bag of words"].fitted_on == 5
    # Tokens: 2-1, 2-3, 1-2, 1-3, 2-3 in the order better-worse of each.
    assert (report.baselines["prefer the longer"].right.k, report.baselines["prefer the longer"].right.n) == (4, 5)
    twice = next(one for one in report.probes if one.name == "said twice")
    assert twice.lowered == Share(0, 5, 3.0) and twice.mean_change == fmean([1, 1, 1, 2, 2])
    assert evaluate_reward_model(Stub(token), gpt2_tokenizer, found.pairs, most_probes=0).probes == []


def test_the_end_token_and_the_turns_before_the_last_are_scored_too(gpt2_tokenizer: Any) -> None:
    ends = evaluate_reward_model(
        Stub(gpt2_tokenizer.eos_token_id),
        gpt2_tokenizer,
        read_pairs([{"prompt": "a", "chosen": "b", "rejected": "c"}])[0],
    )
    assert {one.name: one.mean_change for one in ends.probes} == {
        "without its end token": -1,
        "said twice": 0,
        "after filler": 0,
        "followed by filler": 0,
    }
    # The sides part in their first answers: what comes later is the same.
    rest = "\n\nHuman: And?\n\nAssistant: That is all"
    start = "\n\nHuman: Hi\n\nAssistant: "
    pairs = read_pairs([{"chosen": f"{start}now please{rest}", "rejected": f"{start}no{rest}"}]).pairs
    assert len(pairs[0].responses[0]) == 3
    (token,) = gpt2_tokenizer(" please")["input_ids"]
    report = evaluate_reward_model(Stub(token), gpt2_tokenizer, pairs, most_probes=0)
    assert report.accuracy == Share(1, 1) and report.ties == 0


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "completion": "b", "label": True}, "row 0: .*no partner"),
        ({"instruction": "a", "output": "b"}, "row 0: expected the columns of preference data"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "no pair to measure .*1 identical"),
    ],
)
def test_rows_that_compare_nothing_are_one_line(row: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_pairs([row])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_shows_every_category(suffix: str, tmp_path: Path) -> None:
    report = report_of([1.0, -1.0, 3.0] * 20, categories=["rude", "wrong <&> $x", "_private", r"$\frac{$"] * 15)
    file = tmp_path / "new" / f"card.{suffix}"
    draw_reward_report(report, file, "a title")
    if suffix == "png":
        assert file.read_bytes().startswith(b"\x89PNG")
    else:
        import xml.etree.ElementTree

        xml.etree.ElementTree.parse(file)
        for name in ("rude", "wrong &lt;&amp;&gt; $x", "_private", "all pairs"):
            assert f"<!-- {name} -->" in file.read_text()
    with pytest.raises(UserError, match="cannot write"):
        draw_reward_report(report, file / "below" / "x.png")


def test_pairs_of_one_prompt_are_not_independent() -> None:
    """60 prompts of 10 pairs, half of the prompts always right: the interval is that of 60 things, not of 600."""
    margins = [1.0 if prompt % 2 else -1.0 for prompt in range(60) for _ in range(10)]
    prompts = [prompt for prompt in range(60) for _ in range(10)]
    clustered, naive = share_won(margins, prompts), share_won(margins)
    assert (clustered.k, clustered.n) == (naive.k, naive.n) == (300, 600)
    assert clustered.effective == pytest.approx(59)  # C - 1: as many as the textbook's variance of a mean has
    assert clustered.interval == pytest.approx(Share(29.5, 59).interval)
    one_each = share_won(margins[::10], prompts[::10])
    assert one_each.effective is None  # each pair has its own prompt: Wilson's own interval
    assert effective_number([1, 0] * 30, [i // 2 for i in range(60)]) == 30  # no spread between prompts is no licence
    assert effective_number([1, 1, 1, 1], ["a", "a", "b", "b"]) == 2


def test_the_clustered_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Some prompts are harder than others. 95 % must be 95 %, where taking pairs as independent is far off."""
    rng = np.random.default_rng(0)
    prompts = [prompt for prompt in range(80) for _ in range(8)]
    held = {"clustered": 0, "naive": 0}
    for _ in range(300):
        marks = (rng.random(640) < np.repeat(rng.random(80), 8)).astype(float)
        margins = (marks - 0.5).tolist()
        for name, share in (("clustered", share_won(margins, prompts)), ("naive", share_won(margins))):
            low, high = share.interval
            held[name] += low <= 0.5 <= high
    assert 0.91 <= held["clustered"] / 300 <= 0.99 and held["naive"] / 300 < 0.85


def test_shares_of_ties() -> None:
    assert share_won([0.0, 0.0, 1.0]) == Share(2, 3)
