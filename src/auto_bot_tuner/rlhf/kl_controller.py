r"""How dear a nat of divergence should be: fixed, or moved until the policy stays as near as it was told to.

    $$ e = \mathrm{clip}\Big(\frac{\mathrm{KL}}{\mathrm{target}} - 1, -0.2, 0.2\Big), \qquad
       \beta \leftarrow \beta \, \Big(1 + \frac{e \, n}{\mathrm{horizon}}\Big) $$

Ziegler et al. 2019 (1909.08593, §2.2), a proportional controller in log space: a policy that is too far pays more. With
a fixed coefficient the divergence is whatever the scale of the rewards makes of it; here it is what was asked for.
"""

from __future__ import annotations

import math

LARGEST_ERROR = 0.2  # one strange rollout shall not overturn what was learnt of the right price


class AdaptiveKL:
    """Holds `coefficient`; without a target it stays what it is.

    Args:
        coefficient: to start with, in reward per nat.
        target: nats per response. None: fixed.
        horizon: responses in which the coefficient changes by about a factor e^0.2 at most.

    Raises:
        ValueError: a target with a coefficient of 0, which no factor can move.
    """

    def __init__(self, coefficient: float, target: float | None = None, horizon: int = 10_000) -> None:
        if target is not None and coefficient <= 0:
            raise ValueError("kl_target multiplies kl_coefficient, and 0 stays 0: set kl_coefficient above 0")
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl_per_response: float, n: int) -> float:
        """The coefficient after n more responses whose mean divergence (k1, in nats) was this.

        Raises:
            ValueError: a divergence that is no finite number.
        """
        if self.target is None:
            return self.coefficient
        if not math.isfinite(kl_per_response):
            raise ValueError(f"the divergence from the reference is {kl_per_response}: no price can answer that")
        error = min(max(kl_per_response / self.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        # A rollout longer than the horizon counts as one horizon: from five on the factor could turn negative.
        self.coefficient *= 1 + error * min(n / self.horizon, 1)
        return self.coefficient

    def state_dict(self) -> dict[str, float]:
        """All that `update` changes."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coefficient = state["coefficient"]
