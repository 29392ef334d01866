"""The figures of GRPO and PPO: a rollout's parts (writing, scoring, training), beside TRL's and beside the ceiling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.baton import Lap, gflops
from benchmarks.results import Spread

PARTS = ("writing", "scoring", "training")


def seconds_of(lap: Lap) -> dict[str, float]:
    """A lap of ours by parts: the rollout is writing and scoring, the rest is training."""
    return {
        "writing": lap.parts["writing"],
        "scoring": lap.parts["rollout"] - lap.parts["writing"],
        "training": lap.seconds - lap.parts["rollout"],
    }


def shares(ours: Sequence[Lap], ceiling: Sequence[Lap], facts: Mapping[str, float]) -> dict[str, Spread]:
    """Where our own time goes, and how near each part is to the ceiling."""
    square = gflops(ceiling, "square")
    figures = {f"{size} GFLOP/s": Spread.of(gflops(ceiling, size)) for size in ("square", "model", "few rows")}
    taken = [seconds_of(lap) for lap in ours]
    for part in PARTS:
        figures[part] = Spread.of([t[part] / lap.seconds for t, lap in zip(taken, ours, strict=True)])
        rates = [lap.part_flops[part] / t[part] / 1e9 for lap, t in zip(ours, taken, strict=True)]
        if any(rates):
            figures[f"{part} GFLOP/s"] = Spread.of(rates)
            figures[f"{part} ceiling"] = Spread.of([r / peak for r, peak in zip(rates, square, strict=True)])
    figures["ceiling"] = share_of_ceiling(ours, ceiling)
    figures["tokens/s"] = Spread.of([lap.useful_tokens / lap.seconds for lap in ours])
    figures["memory MB"] = Spread.of([ours[-1].working_memory_mb])
    figures["models MB"] = Spread.of([facts["models_mb"]])
    figures["memory with models MB"] = Spread.of([facts["loaded_mb"] + ours[-1].working_memory_mb])
    return figures


def share_of_ceiling(laps: Sequence[Lap], ceiling: Sequence[Lap]) -> Spread:
    """Of whole rollouts with their training."""
    rates = [sum(lap.part_flops.values()) / lap.seconds / 1e9 for lap in laps]
    return Spread.of([rate / peak for rate, peak in zip(rates, gflops(ceiling, "square"), strict=True)])


def beside(ours: Sequence[Lap], peer: Sequence[Lap], ceiling: Sequence[Lap]) -> dict[str, Spread]:
    """GRPO beside TRL's, in useful tokens per second: of the whole, of writing, of the rest; and TRL's share."""

    def rate(lap: Lap, part: str) -> float:
        writing = lap.parts["writing"]
        return lap.useful_tokens / {"whole": lap.seconds, "writing": writing, "rest": lap.seconds - writing}[part]

    def ratio(part: str) -> Spread:
        return Spread.of([rate(a, part) / rate(b, part) for a, b in zip(ours, peer, strict=True)])

    def wall(lap: Lap) -> float:
        return lap.useful_tokens / lap.wall_seconds

    return {
        "peer ceiling": share_of_ceiling(peer, ceiling),
        "speed": ratio("whole"),
        "writing speed": ratio("writing"),
        "rest speed": ratio("rest"),
        "wall speed": Spread.of([wall(a) / wall(b) for a, b in zip(ours, peer, strict=True)]),
        "peer tokens/s": Spread.of([rate(lap, "whole") for lap in peer]),
        "read": Spread.of([sum(lap.read_tokens for lap in ours) / sum(lap.useful_tokens for lap in ours)]),
        "peer read": Spread.of([sum(lap.read_tokens for lap in peer) / sum(lap.useful_tokens for lap in peer)]),
    }


def difference(ours: Sequence[float], peer: Sequence[float], replayed: int) -> float:
    """The largest of the replayed steps: of losses, and of gradient norms relative to TRL's. Laps say them in turn."""
    pairs = list(zip(ours, peer, strict=True))[: 2 * replayed]
    found = [abs(a - b) for a, b in pairs[::2]] + [abs(a - b) / b for a, b in pairs[1::2]]
    return max(found, key=lambda value: (math.isnan(value), value), default=math.nan)
