"""Each verdict has a run that deserves it, and a healthy run that hears nothing."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace

import pytest

from auto_bot_tuner.grpo.config import GRPOConfig
from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.rollouts.health import Health, verdicts
from auto_bot_tuner.rollouts.past import WINDOW
from auto_bot_tuner.rollouts.symptoms import CHECKS

PPO = PPOConfig(batch_size=16, minibatches=4)  # 64 prompts a rollout
GRPO = GRPOConfig(batch_size=8, minibatches=4, epochs_per_rollout=2)
DAPO = replace(GRPO, loss="dapo")
LONG = 3 * WINDOW

SCORES = {"reward": 0.5, "reward_std": 0.4, "reward_shaped": 0.4, "group_std": 0.3, "groups_without_spread": 0.3}
RESPONSES = {"response_length": 20.0, "eos_rate": 0.95, "kl": 2.0, "kl_std": 2.0, "kl_k3": 2.1, "kl_per_token": 0.1}
STEPS = {"clip_fraction": 0.1, "approx_kl": 0.01, "ratio_gap": 0.004, "entropy": 1.0, "grad_norm": 0.8}
OTHERS = {"explained_variance": 0.4, "advantage_std": 0.3, "skipped_steps": 0.0, "kl_coefficient": 0.05}
HEALTHY = SCORES | RESPONSES | STEPS | OTHERS


def run(rollouts: int = LONG, **figures: object) -> list[dict[str, float]]:
    """A healthy run in which some figures stand, or go from one number to another, at another place."""
    history = []
    for index in range(rollouts):
        part = index / max(rollouts - 1, 1)
        moved = {
            name: value[0] + part * (value[1] - value[0]) if isinstance(value, tuple) else value
            for name, value in figures.items()
        }
        history.append({**HEALTHY, **moved})
    return history


def names(history, config=PPO, method="ppo"):
    return [verdict.name for verdict in verdicts(history, config, method)]


@pytest.mark.parametrize(("config", "method"), [(PPO, "ppo"), (GRPO, "grpo")])
@pytest.mark.parametrize("rollouts", [0, 1, 2, WINDOW, LONG])
def test_a_healthy_run_hears_nothing(config, method, rollouts):
    assert names(run(rollouts), config, method) == []


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_figures_that_a_run_does_not_have_are_no_symptoms(method):
    assert names([{}] * LONG, PPO if method == "ppo" else GRPO, method) == []
    assert names([{"loss": 1.0}] * LONG, PPO if method == "ppo" else GRPO, method) == []


ILL = {
    "ratio_off": (run(1, ratio_gap=0.05), PPO, "old_logprobs"),
    "kl_negative": (run(kl=-1.5), PPO, "temperature"),
    "kl_runaway": (run(kl=14.0), PPO, "raise kl_coefficient"),
    "entropy_collapse": (run(entropy=(1.0, 0.02)), PPO, "entropy_coefficient"),
    "no_reward": (run(reward=0.0, reward_std=0.0, groups_without_spread=1.0), GRPO, "no reward comes"),
    "no_spread": (run(reward=0.95, reward_std=0.2, groups_without_spread=0.9), GRPO, "too easy"),
    "reward_falling": (run(reward=(0.6, 0.2)), PPO, "learning_rate"),
    "no_end": (run(1, eos_rate=0.2), PPO, "max_new_tokens"),
    "length_at_limit": (run(1, response_length=60.0, eos_rate=0.6), PPO, "max_new_tokens"),
    "length_growing": (run(response_length=(10.0, 45.0)), GRPO, "dr_grpo"),
    "value_useless": (run(explained_variance=-0.3), PPO, "value_from"),
    "clip_high": (run(1, clip_fraction=0.4), PPO, "epochs_per_rollout"),
    "clip_never": (run(clip_fraction=0.0), PPO, "raise learning_rate"),
    "steps_skipped": (run(skipped_steps=(0.0, (LONG - 1) * 7.5)), GRPO, "75%"),
    "gradient_clipped": (run(grad_norm=9.0), PPO, "reward_clip"),
}


def test_every_check_has_its_patient():
    assert list(ILL) == [check.__name__ for check in CHECKS]


@pytest.mark.parametrize("name", ILL)
def test_each_symptom_is_seen_alone_and_answered_with_a_cure(name):
    history, config, cure = ILL[name]
    found = verdicts(history, config, "ppo" if config is PPO else "grpo")
    assert [verdict.name for verdict in found] == [name]
    assert cure in found[0].text and found[0].text.endswith(".") and len(found[0].text) < 300


@pytest.mark.parametrize(
    ("config", "history"),
    [
        (PPO, run(1, kl=-0.2, kl_std=2.0)),  # less than three standard errors of 64 responses: chance
        (PPO, run(kl=-5e-4, kl_std=0.0)),  # the rounding of a reference that is the policy itself
        (replace(PPO, max_new_tokens=500), run(kl=30.0, response_length=300.0)),  # long responses add up more
        (replace(PPO, kl_target=6.0), run(kl=14.0)),  # within three times what was asked for
        (PPO, run(entropy=(1.0, 0.4))),  # sharper, not collapsed
        (PPO, run(WINDOW, entropy=(1.0, 0.02))),  # nothing to compare with yet
        (GRPO, run(1, reward=0.0, reward_std=0.0, groups_without_spread=1.0)),  # bad luck still
        (PPO, run(reward=(0.5, 0.45))),  # noise of 64 prompts
        (PPO, run(WINDOW, explained_variance=-2.0)),  # it starts at zero
        (replace(PPO, epochs_per_rollout=1, minibatches=1), run(clip_fraction=0.0)),  # one step: as it must be
        (PPO, [*run(LONG, clip_fraction=0.0), *run(1)]),
        (PPO, [*run(LONG, grad_norm=9.0), *run(1)]),  # not always
        (replace(PPO, max_grad_norm=0.0), run(grad_norm=9.0)),  # never clipped at all
        (GRPO, run(skipped_steps=(0.0, (LONG - 1) * 2.0))),  # of ten between two logs
        (GRPOConfig(loss="reinforce"), run(groups_without_spread=1.0)),  # compares across prompts
        (PPO, run(2, ratio_gap=0.05)),  # later steps on a rollout are meant to move
    ],
)
def test_what_is_not_yet_a_symptom(config, history):
    assert names(history, config, "grpo" if isinstance(config, GRPOConfig) else "ppo") == []


@pytest.mark.parametrize("name", ILL)
def test_every_setting_that_is_named_exists(name):
    history, *_ = ILL[name]
    for config, method in ((PPO, "ppo"), (GRPO, "grpo"), (replace(PPO, kl_target=1.0), "ppo"), (DAPO, "grpo")):
        foreign = {"explained_variance"} if method == "grpo" else {"groups_without_spread"}  # of the other method alone
        seen = [{figure: entry[figure] for figure in entry.keys() - foreign} for entry in history]
        for verdict in verdicts(seen, config, method):
            named = set(re.findall(r"[a-z]+(?:_[a-z]+)+", verdict.text)) - {"dr_grpo"}
            assert named <= {field.name for field in fields(config)}, verdict.text
            flags = {f"--{name.replace('_', '-')}" for name in named}  # as a command spells them
            assert flags <= set(re.findall(r"--[a-z-]+", verdict.text)), verdict.text


def test_a_target_of_the_divergence_is_the_measure_where_there_is_one():
    adaptive = replace(PPO, kl_target=1.0)
    (found,) = verdicts(run(kl=4.0), adaptive, "ppo")
    assert found.name == "kl_runaway" and "kl_horizon" in found.text and "raise kl_coefficient" not in found.text


def test_much_divergence_with_a_rising_reward_smells_of_hacking():
    (found,) = verdicts(run(kl=14.0, reward=(0.1, 0.9)), PPO, "ppo")
    assert found.name == "kl_runaway" and "reward-hacking.md" in found.text


def test_groups_without_spread_are_too_easy_or_too_hard():
    runs = [run(reward=reward, groups_without_spread=0.9) for reward in (0.9, 0.1, 0.5)]
    texts = [verdicts(history, GRPO, "grpo")[0].text for history in runs]
    assert ["too easy" in text for text in texts] == [True, False, True]
    assert ["too hard" in text for text in texts] == [False, True, True]


def test_no_reward_explains_the_skipped_steps_and_the_groups_too():
    history = run(reward=0.0, reward_std=0.0, groups_without_spread=1.0, skipped_steps=(0.0, 200.0))
    assert names(history, GRPO, "grpo") == ["no_reward"]
    assert names(run(reward=0.1, groups_without_spread=0.9, skipped_steps=(0.0, 200.0)), GRPO, "grpo") == ["no_spread"]


def test_a_rollout_for_a_single_step_has_its_ratio_checked_at_each():
    once = replace(GRPO, minibatches=1, epochs_per_rollout=1)
    assert names(run(ratio_gap=0.05), once, "grpo") == ["ratio_off"]
    assert names(run(ratio_gap=0.05), GRPO, "grpo") == []


# ---- said once ----


def told(health: Health, history: list[dict[str, float]]) -> list[list[str]]:
    return [[verdict.name for verdict in health.note(entry)] for entry in history]


def test_a_verdict_is_given_once_and_again_only_after_a_recovery():
    health = Health(PPO, "ppo")
    assert told(health, run(4, eos_rate=0.1)) == [["no_end"], [], [], []]
    # The mean of five is healthy from the fourth good rollout on; the verdict is forgotten five rollouts later.
    assert told(health, run(12, eos_rate=1.0)) == [[]] * 12
    assert [names for names in told(health, run(5, eos_rate=0.1)) if names] == [["no_end"]]


def test_a_figure_that_trembles_at_its_threshold_is_told_once():
    health = Health(PPO, "ppo")
    trembling = [{**HEALTHY, "clip_fraction": 0.3 + sign * 0.2} for sign in (1, -1) * 10]
    assert [names for names in told(health, trembling) if names] == [["clip_high"]]


def test_logs_between_rollouts_are_added_to_the_last_one():
    """With a log at each step only the first on a rollout has its statistics; the others carry on with its entry."""
    health = Health(PPO, "ppo")
    steps = [{"clip_fraction": share, "grad_norm": 1.0, "skipped_steps": 0.0} for share in (0.1, 0.2, 0.3, 0.4)]
    for _ in range(2):
        assert told(health, [{**SCORES, **RESPONSES, **steps[0]}, *steps[1:]]) == [[]] * 4
    assert [entry["clip_fraction"] for entry in health.history] == [pytest.approx(0.25)] * 2
    assert all(entry["kl"] == RESPONSES["kl"] and entry["logs"] == 4 for entry in health.history)


def test_a_first_step_that_is_off_is_told_before_others_are_added():
    health = Health(PPO, "ppo")
    assert told(health, [{**RESPONSES, "ratio_gap": 0.05}, {"ratio_gap": 0.06}]) == [["ratio_off"], []]
    assert told(Health(PPO, "ppo"), [{**RESPONSES, "ratio_gap": 0.0}, {"ratio_gap": 0.06}]) == [[], []]


def test_first_and_last_entries_are_all_that_is_needed():
    whole = run(40, entropy=(1.0, 0.01), reward=(0.9, 0.1))
    health = Health(PPO, "ppo")
    told(health, whole)
    assert health.history == [{**entry, "logs": 1} for entry in (*whole[:WINDOW], *whole[-WINDOW:])]
    assert verdicts(health.history, PPO, "ppo") == verdicts(whole, PPO, "ppo") != []


@pytest.mark.parametrize("cut", [1, WINDOW, 2 * WINDOW, 17])
def test_a_resumed_run_says_what_the_uninterrupted_one_says(cut):
    history = [*run(8, eos_rate=0.1), *run(14, entropy=(1.0, 0.01)), *run(6, eos_rate=0.1)]
    uninterrupted = told(Health(PPO, "ppo"), history)
    first, second = Health(PPO, "ppo"), Health(PPO, "ppo")
    before = told(first, history[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + told(second, history[cut:]) == uninterrupted
    assert sum(len(names) for names in uninterrupted) >= 3


def test_chance_below_zero_is_no_mismatch_also_where_the_first_rollout_has_no_spread():
    """Variances of a mean add up: standard errors 0 and 1/8 make 1/16 of their mean, and -0.15 is less than three."""
    first, second = run(1, kl=0.0, kl_std=0.0), run(1, kl=-0.3, kl_std=1.0)
    assert "kl_negative" not in names([*first, *second])
    assert "kl_negative" in names([*first, *run(1, kl=-0.6, kl_std=1.0)])


def test_a_policy_that_stands_still_at_the_end_of_its_schedule_has_moved():
    moved = run(clip_fraction=0.02)[:WINDOW] + run(clip_fraction=0.0)
    assert "clip_never" not in names(moved) and "clip_never" in names(run(clip_fraction=0.0))
