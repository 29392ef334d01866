"""Where toolkits go wrong: what is measured, and what would be no proof of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proof import traps


@dataclass(frozen=True)
class Pitfall:
    """A mistake that is easy to make, what it costs, and what ours gives on the same numbers."""

    name: str
    what: str  # in words: what was measured
    test: str
    measure: Callable[[], tuple[float, float]]  # (theirs, ours)
    is_shown: Callable[[float, float], bool]  # the claim: theirs goes wrong, ours does not
    form: str = "{:.3g}"


ORACLES = "tests/test_policy_gradient_oracles.py::"
PITFALLS = [
    Pitfall(
        "plain k3 in the loss",
        "cosine between the expected gradient of the KL term and that of KL(π ‖ π_ref), at the first step: "
        "TRL's `GRPOTrainer` as it comes; ours, k3 times the ratio",
        ORACLES + "test_plain_k3_has_the_gradient_of_the_other_divergence",
        traps.plain_k3,
        lambda theirs, ours: theirs < 0.95 and ours > 0.9999,
        "{:.4f}",
    ),
    Pitfall(
        "pad = eos and the reward's score",
        "difference between the scores of “1 2 3 END” and “1 2 3”: the classification head that TRL's "
        "`RewardTrainer` trains (Llama); ours on the same weights",
        "tests/test_reward_parity.py::test_with_pad_equal_to_eos_trls_score_does_not_see_the_end",
        traps.end_unseen,
        lambda theirs, ours: theirs < 1e-5 and ours > 1e-3,
    ),
    Pitfall(
        "… on GPT-2",
        "the same with `GPT2ForSequenceClassification`",
        "tests/test_reward_model.py::test_the_end_token_counts_also_where_it_is_the_pad_token",
        traps.end_unseen_by_gpt2,
        lambda theirs, ours: theirs < 1e-5 and ours > 1e-3,
    ),
    Pitfall(
        "means of means",
        "two micro-batches of two responses each, short and long ones: distance of their summed gradient from that "
        "of the batch, relative to it: TRL's `GRPOTrainer`, loss `bnpo`; ours, loss `dapo`",
        "tests/test_grpo_loss.py::test_cutting_into_micro_batches_changes_neither_loss_nor_gradient",
        traps.means_of_means,
        lambda theirs, ours: theirs > 0.05 and ours < 1e-5,
        "{:.3f}",
    ),
    Pitfall(
        "labels counted before the shift",
        "a GPT-2 learns whole texts, so that a row's first label is a token that nothing predicts: first logged loss, "
        "over the mean of the tokens that are predicted: TRL's `SFTTrainer` (N / (N + B): each row counts a token too "
        "many; not so on Llama); ours",
        "tests/test_loop.py::test_a_rows_first_token_is_no_target_and_has_no_weight",
        traps.labels_counted_before_the_shift,
        lambda theirs, ours: theirs < 0.96 and abs(ours - 1) < 1e-5,
        "{:.3f}",
    ),
    Pitfall(
        "padding found by value",
        "share of the end tokens that are still trained where padding has their id: `ids != pad`; ours, by length",
        "tests/test_loop.py::test_a_padding_id_equal_to_eos_costs_no_end_token",
        traps.mask_by_value,
        lambda theirs, ours: theirs == 0 and ours == 1,
        "{:.0%}",
    ),
    Pitfall(
        "weights in bfloat16",
        "share of the weights that ten steps at a learning rate of 1e-6 do not move: bfloat16; float32, as ours are",
        "tests/test_loop.py::test_bfloat16_weights_are_trained_in_float32",
        traps.half_precision_stands_still,
        lambda theirs, ours: theirs > 0.8 and ours < 0.05,
        "{:.1%}",
    ),
    Pitfall(
        "a first step that moves nothing",
        "share of the peak learning rate in the first of three warm-up steps: `transformers.get_scheduler`, which TRL "
        "uses; ours",
        "tests/test_loop.py::test_the_learning_rate_by_hand",
        traps.first_warm_up_step,
        lambda theirs, ours: theirs == 0 and ours == 0.25,
    ),
    Pitfall(
        "dividing by the group's deviation",
        "how much more a prompt that is solved one time in twenty counts than one solved half the time (1: as the "
        "reward says), G = 8: GRPO; Dr. GRPO",
        ORACLES + "test_the_deviation_makes_hard_prompts_count_more",
        traps.deviation_bends,
        lambda theirs, ours: theirs > 1.2 and abs(ours - 1) < 1e-5,
        "{:.3f}",
    ),
]
