"""The deviation of everything seen so far, in three numbers: what rewards are divided by."""

from __future__ import annotations

import math

import torch


class RunningDeviation:
    """Count, mean and summed squared distance, joined batch by batch (Chan et al. 1979).

    Reward models differ in scale, and one kl_coefficient cannot fit them all. The mean is left alone: where a reward is
    zero decides nothing, since advantages are differences.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, values: torch.Tensor) -> None:
        """More values (N,)."""
        x = values.double()
        n, mean = len(x), float(x.mean())
        apart, total = mean - self.mean, self.count + n
        self.squares += float((x - mean).square().sum()) + apart**2 * self.count * n / total
        self.mean += apart * n / total
        self.count = total

    @property
    def value(self) -> float:
        """The deviation, as of a population; 1 while all values are equal: there is no scale yet."""
        variance = self.squares / self.count if self.count else 0.0
        return math.sqrt(variance) if variance > 1e-12 else 1.0

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.squares = int(state["count"]), state["mean"], state["squares"]
