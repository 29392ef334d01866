r"""The report card of a reward model: what its scores are worth on pairs that it was not trained on.

One accuracy hides almost everything that later goes wrong: a policy trained on a reward finds what the reward *really*
pays for. So the card asks in which pairs it is right: by what is wrong with the rejected answer, by how sure it is, by
which side is longer; and whether a rule without any understanding (longer is better; a bag of words) does as well.

A reward model is a Bradley–Terry model (1952): with the margin m = r(chosen) − r(rejected), in nats,

    P(chosen is preferred) = sigmoid(m)

so a margin is a claim that can be checked. It names a winner with the confidence c = sigmoid(|m|), and of all pairs
with confidence near 0.9 it should name the right one in 90 %. The expected calibration error is the mean distance
between the two, over bins of confidence, weighted by pairs (Naeini et al. 2015, Guo et al. 1706.04599):

    ECE = Σ_b n_b/n · |share right in b − mean confidence in b|

It is above 0 by chance alone, the more so the fewer the pairs; `ece_by_chance` is what a perfectly calibrated model
of these confidences would be expected to show: Σ_b n_b/n · sqrt(2 v_b / (π n_b)) with v_b the mean of c (1 − c), the
mean distance of a normal variable of variance v_b / n_b. Everything here is arithmetic on numbers; `probes.py` and
`baselines.py` make the others, `verdicts.py` says in words what they amount to.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

import numpy as np

from auto_bot_tuner.evaluation.baselines import Baseline
from auto_bot_tuner.evaluation.intervals import Share, share_won
from auto_bot_tuner.evaluation.probes import Probe
from auto_bot_tuner.utils.errors import UserError

CONFIDENCE_BINS = 5  # of equal width, from 0.5 to 1
GAP_BINS = 4  # of equal numbers of pairs
ABOUT_AS_LONG = 0.1  # lengths within 10 % of the longer
LENGTHS = ("chosen side shorter", "about as long", "chosen side longer")


@dataclass(frozen=True)
class Bin:
    """The pairs whose confidence, or whose gap, lies in [low, high)."""

    low: float
    high: float
    confidence: float  # mean of sigmoid(|margin|)
    right: Share


@dataclass(frozen=True)
class RewardReport:
    """What the scores of a reward model are worth."""

    accuracy: Share  # pairs whose chosen side scores higher; a tie counts half
    ties: int
    calibration: list[Bin]  # by confidence; empty bins are left out
    ece: float
    ece_by_chance: float
    by_gap: list[Bin]  # by |margin|, from small to large
    by_category: dict[str, Share]  # what is wrong with the rejected side; "all" where the data does not say
    by_length: dict[str, Share]  # under the names of `LENGTHS`
    prefers_longer: Share  # pairs whose longer side scores higher, of those whose lengths differ
    baselines: dict[str, Baseline]
    probes: list[Probe] = field(default_factory=list)

    @property
    def overconfidence(self) -> float:
        """Mean confidence − accuracy: above 0 the margins claim too much, below 0 too little."""
        return fmean(bin.confidence for bin in self.calibration for _ in range(bin.right.n)) - self.accuracy.value


def reward_report(
    chosen: Sequence[float],
    rejected: Sequence[float],
    chosen_lengths: Sequence[int],
    rejected_lengths: Sequence[int],
    categories: Sequence[str] = (),
    baselines: dict[str, Baseline] | None = None,
    probes: Sequence[Probe] = (),
    clusters: Sequence[Hashable] = (),
) -> RewardReport:
    """The card of n pairs.

    Args:
        chosen: n scores of the preferred responses, in nats (what `RewardModel` gives).
        rejected: n scores of the others.
        chosen_lengths: n lengths of the preferred responses, in any one unit.
        rejected_lengths: likewise.
        categories: n names of what is wrong with the rejected side. Empty: one category, "all".
        baselines: more baselines than the two of length, such as `baselines.bag_of_words`.
        probes: from `probes.probe`.
        clusters: n prompts, or what stands for them: pairs of one prompt are not independent, and intervals that took
            them to be so would be too narrow (a ranking of four answers gives six pairs). Empty: each pair has its own.

    Raises:
        UserError: there is no pair, or a score is not a finite number.
    """
    if not chosen:
        raise UserError("there is no pair to measure: choose another split or more samples")
    if not all(map(math.isfinite, [*chosen, *rejected])):
        raise UserError("a score is not a finite number: the reward model is damaged, or its training diverged")
    margins = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
    longer = [a - b for a, b in zip(chosen_lengths, rejected_lengths, strict=True)]
    confidences = [confidence(margin) for margin in margins]
    edges = np.linspace(0.5, 1, CONFIDENCE_BINS + 1).tolist()
    clusters = clusters or range(len(margins))
    calibration = binned(confidences, margins, edges, clusters)
    gaps = [abs(margin) for margin in margins]
    quantiles = sorted(set(np.quantile(gaps, np.linspace(0, 1, GAP_BINS + 1)).tolist()))
    kinds = [length_kind(a, b) for a, b in zip(chosen_lengths, rejected_lengths, strict=True)]
    by_length = shares_by(kinds, margins, clusters)
    differing = [i for i, side in enumerate(longer) if side]
    prefers_longer = share_won([margins[i] * longer[i] for i in differing], [clusters[i] for i in differing])
    return RewardReport(
        accuracy=share_won(margins, clusters),
        ties=margins.count(0.0),
        calibration=calibration,
        ece=sum(abs(bin.right.value - bin.confidence) * bin.right.n for bin in calibration) / len(margins),
        ece_by_chance=ece_by_chance(confidences, edges),
        by_gap=binned(gaps, margins, quantiles, clusters),
        by_category=shares_by([name or "all" for name in categories or [""] * len(margins)], margins, clusters),
        by_length={name: by_length[name] for name in LENGTHS if name in by_length},
        prefers_longer=prefers_longer if differing else Share(0.5, 1),
        baselines={
            "prefer the longer": Baseline(share_won(longer, clusters)),
            "prefer the shorter": Baseline(share_won([-difference for difference in longer], clusters)),
            **(baselines or {}),
        },
        probes=list(probes),
    )


def confidence(margin: float) -> float:
    """sigmoid(|margin|): how sure the model is of the side that it names.

    >>> round(confidence(-math.log(3)), 6)
    0.75
    """
    return 1 / (1 + math.exp(-abs(margin)))


def binned(
    values: Sequence[float], margins: Sequence[float], edges: Sequence[float], clusters: Sequence[Hashable]
) -> list[Bin]:
    """The pairs parted by `values` at `edges`; the last bin holds its upper edge. Empty bins are left out."""
    edges = edges if len(edges) > 1 else [edges[0], edges[0]]
    place = bin_of(values, edges)
    found = []
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = [k for k, at in enumerate(place) if at == i]
        if inside:
            right = share_won([margins[k] for k in inside], [clusters[k] for k in inside])
            found.append(Bin(low, high, fmean(confidence(margins[k]) for k in inside), right))
    return found


def bin_of(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Which of the len(edges) − 1 bins each value lies in."""
    at = np.searchsorted(edges, values, side="right") - 1
    return np.clip(at, 0, len(edges) - 2).tolist()


def ece_by_chance(confidences: Sequence[float], edges: Sequence[float]) -> float:
    """The ECE that these n confidences would be expected to show, were every one of them exactly right."""
    place, total = np.array(bin_of(confidences, edges)), 0.0
    c = np.array(confidences)
    for i in set(place.tolist()):
        inside = c[place == i]
        total += math.sqrt(2 * float((inside * (1 - inside)).mean()) * len(inside) / math.pi)
    return total / len(c)


def length_kind(chosen: int, rejected: int) -> str:
    """Which side is longer, as the key of `by_length`.

    >>> length_kind(100, 91), length_kind(4, 8)
    ('about as long', 'chosen side shorter')
    """
    if abs(chosen - rejected) <= ABOUT_AS_LONG * max(chosen, rejected):
        return "about as long"
    return "chosen side longer" if chosen > rejected else "chosen side shorter"


def shares_by(names: Sequence[str], margins: Sequence[float], clusters: Sequence[Hashable]) -> dict[str, Share]:
    """The share of right pairs under each name, the names with most pairs first."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return {
        name: share_won([margins[i] for i in group], [clusters[i] for i in group])
        for name, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    }
