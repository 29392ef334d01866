"""Claims about statistics over real tokens only."""

from __future__ import annotations

from functools import partial

import auto_bot_tuner.rlhf.ppo_loss as ppo
from proof.cases import responses
from proof.claims import FLOAT32, Claim, Paper
from proof.oracles import policy as definition

TESTS = "tests/test_ppo_loss.py::"
N_PLUS = Paper("Huang et al. 2024, “The N+ implementation details”", "2403.17031")
NOT_IN_TRL = "has none: this TRL has no PPO"
NO_SUCH = "has none as a function of its own"

CLAIMS = [
    Claim(
        "masked mean",
        ppo.masked_mean,
        N_PLUS,
        TESTS + "test_padding_neither_counts_nor_learns",
        lambda: responses("x"),
        lambda case: ppo.masked_mean(case["x"], case["mask"]),
        definition.masked_mean,
        "real tokens one by one",
        peer_is=NO_SUCH,
        gradients=("x",),
        formula=r"\frac{1}{|M|} \sum_{t \in M} x_t",
    ),
    Claim(
        "masked variance",
        ppo.masked_variance,
        N_PLUS,
        TESTS + "test_whitening_is_of_all_valid_tokens_of_the_batch_together",
        lambda: responses("x"),
        lambda case: ppo.masked_variance(case["x"], case["mask"]),
        definition.masked_variance,
        "real tokens one by one",
        peer_is=NO_SUCH,
        gradients=("x",),
        formula=r"\frac{1}{|M|} \sum_{t \in M} (x_t - \bar x)^2",
    ),
    *(
        Claim(
            name,
            ppo.whiten,
            N_PLUS,
            TESTS + "test_whitening_is_of_all_valid_tokens_of_the_batch_together",
            # A single value has no deviation: its rounding is divided by 1e-4.
            partial(responses, "x", shift_mean=shift),
            lambda case: ppo.whiten(case["x"], case["mask"], case["shift_mean"]),
            definition.whiten,
            "mean and deviation of the real tokens of all rows together",
            peer_is=NOT_IN_TRL,
            bound=FLOAT32,
        )
        for name, shift in (("whitening", True), ("whitening, mean kept", False))
    ),
    Claim(
        "explained variance",
        ppo.explained_variance,
        N_PLUS,
        TESTS + "test_explained_variance_is_one_for_foresight_and_zero_for_a_constant",
        lambda: responses("values", "returns"),
        lambda case: ppo.explained_variance(case["values"], case["returns"], case["mask"]),
        definition.explained_variance,
        "two variances over real tokens",
        peer_is=NOT_IN_TRL,
        bound=FLOAT32,
    ),
]
