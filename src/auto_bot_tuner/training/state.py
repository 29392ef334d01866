"""Where a run stands: the one clock (optimiser steps) and what hangs on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainingState:
    """Saved in every checkpoint as JSON; Python writes and reads floats there without losing a bit."""

    step: int = 0  # finished optimiser steps
    skipped: int = 0  # of them, those that had nothing to learn from
    tokens: int = 0  # real tokens seen, padding left out
    best_loss: float | None = None  # lowest evaluation loss so far
    best_step: int | None = None
    evaluated_step: int | None = None
    evaluations_since_best: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # as last logged
    evaluation: dict[str, float] = field(default_factory=dict)  # as last measured
    # What has been summed since the last log line. Saved too: a run that is interrupted between two
    # lines would otherwise write another average than one that is not.
    window: dict[str, float] = field(default_factory=dict)
    # What the position in the data depends on; a resumed run must agree in each.
    shape: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def restore(self, record: dict[str, Any]) -> None:
        for name in asdict(self):
            setattr(self, name, record[name])

    def note_step(self, sums: dict[str, float], tokens: int, seconds: float) -> None:
        """Count a finished step. `sums` holds `weight` and each metric times its weight."""
        self.step += 1
        self.tokens += tokens
        for name, value in {**sums, "tokens": tokens, "seconds": seconds}.items():
            self.window[name] = self.window.get(name, 0.0) + value

    def note_skipped_step(self) -> None:
        """Count a step in which nothing was learnt: the clock goes on, so that schedules keep their length."""
        self.step += 1
        self.skipped += 1

    def close_window(self) -> dict[str, float]:
        """Means per unit of weight since the last call, `num_tokens` (the weight) and `tokens_per_second`.

        Weighted by tokens: a mean of means would let short steps shout.
        """
        window, self.window = self.window, {}
        if not window:  # all steps since then were skipped
            return {"num_tokens": 0.0}
        weight, tokens, seconds = (window.pop(name) for name in ("weight", "tokens", "seconds"))
        means = {name: value / weight for name, value in window.items()}
        return {**means, "num_tokens": weight, "tokens_per_second": tokens / seconds}

    def note_evaluation(self, loss: float) -> bool:
        """Remember an evaluation; True when it is the best so far."""
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.evaluations_since_best = loss, self.step, 0
            return True
        self.evaluations_since_best += 1
        return False
