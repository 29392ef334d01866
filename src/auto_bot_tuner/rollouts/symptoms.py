"""The signs by which a run of reinforcement learning shows that something is wrong: one check each, for `health.py`.

Each is a rule of thumb, with the reason for its threshold beside it, and says in a sentence or two what the sign means
and what to do. A check sees the past of a run (`past.py`), and gives None where all is well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from auto_bot_tuner.rollouts.past import WINDOW, Past, figures, mean

# ---- the checks: None where all is well ----


def ratio_off(past: Past) -> str | None:
    # In the first step on a rollout the policy is still the one that wrote it: |ratio - 1| is rounding. 1 % in the mean
    # over tokens is far more in single ones, and a twentieth of the usual clip. Later steps are meant to move.
    is_first_step = past.steps == 1 or (len(past.history) == 1 and past.history[0].get("logs", 1) == 1)
    if not (is_first_step and past.recent("ratio_gap") > 0.01):
        return None
    return (
        "the policy gives its own fresh responses other probabilities in training than in writing, so every ratio is "
        "wrong from the start: set old_logprobs to training. Dropout, or another temperature, would do this too."
    )


def kl_negative(past: Past) -> str | None:
    # A mean of k1 over few responses may be negative. Three standard errors are not chance, and variances add up: a
    # first rollout, whose policy still is its reference, has none. Two hundredths of a nat would do no harm either way.
    variance = mean([std**2 for std in past.last("kl_std")])
    noise = 3 * math.sqrt(variance / (past.prompts * len(past.last("kl"))))
    kl = past.recent("kl")
    if not kl < -noise - 0.02:
        return None
    return (
        f"KL is {kl:.2f} nats a response, and a divergence cannot be negative: the responses were not sampled from the "
        "distribution that their log-probs claim. Look for a temperature, top-k or dropout in one of the two passes."
    )


def kl_runaway(past: Past) -> str | None:
    # 10 nats: its own words are e^10, 22,000 times as likely to the policy as to the reference. Long responses add up
    # more without a word that is out of place, so 0.2 nats a token are allowed. A target is missed at three times it.
    target = getattr(past.config, "kl_target", None)
    limit = 3 * target if target else max(10.0, 0.2 * past.recent("response_length"))
    kl = past.recent("kl")
    if not kl > limit:
        return None
    cure = "lower kl_horizon or learning_rate" if target else f"raise {past.leash} or lower learning_rate"
    if past.reward_trend() > 0:
        return (
            f"the reward rises, but at {kl:.1f} nats a response the policy writes what its reference hardly would: it "
            f"may have found a flaw of the reward (docs/reward-hacking.md). Read samples.jsonl; {cure}."
        )
    return f"the policy is {kl:.1f} nats a response from its reference, with no reward to show for it: {cure}."


def entropy_collapse(past: Past) -> str | None:
    # A fifth of what it was; below 0.02 nats at the start there was nothing to lose.
    before, now = past.start("entropy"), past.recent("entropy")
    if not (before > 0.02 and now < 0.2 * before):
        return None
    cures = f"lower learning_rate, raise {past.leash}"
    cures += " or entropy_coefficient" if past.method == "ppo" else " or clip_ratio_high"
    return (
        f"entropy fell from {before:.2f} to {now:.2g} nats a token: the policy hardly tries other words, and what it "
        f"does not try it cannot learn. If the reward is not yet where it should be, {cures}."
    )


def no_reward(past: Past) -> str | None:
    # One rollout without any difference may be bad luck; another one is not.
    reward = past.recent("reward")
    if not (len(past.history) >= 2 and max(past.last("reward_std")) == 0 and reward <= 0):
        return None
    return (
        f"every response in {len(past.last('reward'))} logs on end scored {reward:g}: no reward comes, so nothing is "
        "learnt. Test the reward on a right answer; then give easier prompts, or more SFT until some attempts succeed."
    )


def no_spread(past: Past) -> str | None:
    # Groups without spread have advantage 0. With four of five such groups, a fifth of the work is used. REINFORCE
    # compares across prompts, and minds no such group.
    share, reward = past.recent("groups_without_spread"), past.recent("reward")
    is_grouped = getattr(past.config, "loss", "") != "reinforce"
    if not (is_grouped and len(past.history) >= 2 and share > 0.8) or no_reward(past) is not None:
        return None
    finding = f"in {share:.0%} of the groups all responses score alike, so they teach nothing: "
    # Rewards that are often exactly equal are verifiers', which mostly give 0 to 1.
    if reward > 0.8:
        return f"{finding}at a mean reward of {reward:.2f} the prompts are too easy. Give harder ones, or stop here."
    if reward < 0.2:
        return (
            f"{finding}at a mean reward of {reward:.2f} the prompts are too hard. Give easier ones, more SFT, a larger "
            "group_size, or a reward that values steps on the way."
        )
    return (
        f"{finding}prompts are either too easy or too hard. Mix in others, raise group_size or temperature, or leave "
        "such groups out with drop_equal_groups."
    )


def reward_falling(past: Past) -> str | None:
    if past.reward_trend() >= 0:
        return None
    return (
        f"the reward fell from {past.start('reward'):.3g} to {past.recent('reward'):.3g}, the opposite of what is "
        "trained: lower learning_rate or epochs_per_rollout, and see whether another verdict says why."
    )


def no_end(past: Past) -> str | None:
    # Where most responses are cut, most scores judge half a sentence.
    ends, limit = past.recent("eos_rate"), past.config.max_new_tokens
    if not ends < 0.5:
        return None
    penalty = "" if past.config.missing_eos_penalty else " and set missing_eos_penalty"
    share = "none" if ends == 0 else f"only {ends:.0%}"
    return (
        f"{share} of the responses end by themselves, the others are cut at {limit} tokens: raise "
        f"max_new_tokens{penalty}. A start that never ends needs SFT first."
    )


def length_at_limit(past: Past) -> str | None:
    # A mean so near the limit means that many are cut; where most are, `no_end` says it.
    length, limit = past.recent("response_length"), past.config.max_new_tokens
    if not (length > 0.8 * limit and past.recent("eos_rate") >= 0.5):
        return None
    return f"responses take {length:.0f} of {limit} tokens: the limit decides. Raise max_new_tokens, or price length."


def length_growing(past: Past) -> str | None:
    # Twice as long: more than a change of manner.
    before, now = past.start("response_length"), past.recent("response_length")
    if not now > 2 * before:
        return None
    cure = "reward brevity"
    if getattr(past.config, "loss", "") == "grpo":
        cure = "use loss dr_grpo or dapo, since grpo's mean per response is mild to long failures"
    return (
        f"responses grew from {before:.0f} to {now:.0f} tokens. If the task does not need it, the reward pays for "
        f"length (evaluate reward shows it): {cure}."
    )


def value_useless(past: Past) -> str | None:
    # Below 0 a constant would predict better. The first rollouts do not count: the network starts at zero.
    explained = past.recent("explained_variance")
    if not (past.is_long and explained < 0):
        return None
    start = (
        ", start it from the reward model (value_from)" if getattr(past.config, "value_from", "") == "policy" else ""
    )
    return (
        f"the value network predicts worse than a constant (explained variance {explained:.2f}) and adds noise to the "
        f"advantages: change value_learning_rate{start}, or raise gae_lambda towards 1."
    )


def clip_high(past: Past) -> str | None:
    # A clipped token is work thrown away, and a sign that the policy outruns its own samples.
    share = past.recent("clip_fraction")
    if not (share > 0.3 and past.steps > 1):
        return None
    return (
        f"{share:.0%} of the tokens are clipped: the policy outruns the responses that it learns from. Lower "
        "learning_rate or epochs_per_rollout."
    )


def clip_never(past: Past) -> str | None:
    # Several steps on one rollout move some rare token by a fifth, if they move anything. (At the end of its schedule a
    # policy that did move stands still, and should.)
    if not (past.is_long and past.steps > 1 and max(figures(past.history, "clip_fraction")) == 0):
        return None
    # GSPO's ratio is a mean over tokens, in which such moves drown: its own clip, where none is set, is as narrow.
    is_wide = getattr(past.config, "loss", "") == "gspo" and (getattr(past.config, "clip_ratio", None) or 0) > 1e-2
    cure = "leave clip_ratio to gspo, whose own is 3e-4" if is_wide else "raise learning_rate"
    return (
        f"{past.steps} steps on each rollout, and no token was ever clipped: the policy hardly moves. If the reward "
        f"does not rise, {cure}."
    )


def steps_skipped(past: Past) -> str | None:
    # Where there is nothing to learn from, the checks of the reward say so already.
    counts = past.last("skipped_steps")  # so far
    steps_between = max(past.steps, past.config.logging_steps) * (len(counts) - 1)
    share = (counts[-1] - counts[0]) / max(steps_between, 1)
    is_explained = no_reward(past) is not None or no_spread(past) is not None
    if not (len(past.history) >= WINDOW and share > 0.5) or is_explained:
        return None
    cure = "prompts whose responses differ in score are needed"
    if getattr(past.config, "early_stop_kl", 0):
        cure = "early_stop_kl ends rollouts early; lower learning_rate or epochs_per_rollout"
    return f"{share:.0%} of the optimiser steps are skipped, for which responses were written in vain: {cure}."


def gradient_clipped(past: Past) -> str | None:
    # Adam undoes the scale of the gradient, so clipping a little each time is harmless. Five times over each time, the
    # limit decides how much each rollout counts.
    limit = past.config.max_grad_norm
    if not (past.is_long and limit > 0 and min(past.last("grad_norm")) > 5 * limit):
        return None
    return (
        f"the gradient's norm is {past.recent('grad_norm'):.1f} and always cut to {limit:g}: scores or advantages are "
        "large. Scale or clip the reward (reward_clip), or lower learning_rate if the curves are restless."
    )


CHECKS: tuple[Callable[[Past], str | None], ...] = (
    *(ratio_off, kl_negative, kl_runaway, entropy_collapse, no_reward, no_spread, reward_falling),
    *(no_end, length_at_limit, length_growing, value_useless, clip_high, clip_never, steps_skipped, gradient_clipped),
)
