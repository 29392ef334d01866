"""The KL–reward frontier: its points against enumeration, its judgements by hand, and the command on small runs."""

from __future__ import annotations

import json
import math
from itertools import combinations
from statistics import fmean, stdev

import pytest
import torch

import commands
from auto_bot_tuner.evaluation.best_of import BestOf
from auto_bot_tuner.evaluation.frontier import (
    FrontierPoint,
    best_of_points,
    point_of_run,
    reward_at,
    undominated,
)
from auto_bot_tuner.utils.arguments import parse_arguments
from auto_bot_tuner.utils.errors import UsageError, UserError
from commands import frontier

SMALL = "--model tiny --dataset tiny-prompts --max-samples 8 --eval-max-samples 6 --no-lora --reward length:2"
SHORT = "--max-new-tokens 4 --batch-size 2 --minibatches 1 --epochs-per-rollout 1 --max-steps 2 --report-to"


def arguments(*argv: str) -> frontier.Arguments:
    flags = [*SMALL.split(), *SHORT.split(), *argv]
    found: frontier.Arguments = parse_arguments(frontier.Arguments, flags, "python main.py frontier")
    return found


# --- points -----------------------------------------------------------------------------------------------------------


def test_best_of_n_is_the_mean_over_all_choices_of_n_responses():
    scores = [[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, -1.0, 4.0], [1.0, 2.0, 8.0, 3.0]]
    gold = [[-1.0, 1.0, 0.5, 0.0], [0.2, -2.0, 1.0, 1.5], [0.0, 1.0, -1.0, 0.3]]
    written = BestOf([], torch.tensor(scores), {"gold": torch.tensor(gold)})
    for point in best_of_points(written, [1, 2, 3, 4]):
        n = int(point.setting)
        choices = list(combinations(range(4), n))
        best = [[max(choice, key=row.__getitem__) for choice in choices] for row in scores]
        rewards = [fmean(row[i] for i in chosen) for row, chosen in zip(scores, best, strict=True)]
        assert point.reward == pytest.approx(fmean(rewards), abs=1e-6)
        assert point.gold == pytest.approx(
            fmean(fmean(row[i] for i in chosen) for row, chosen in zip(gold, best, strict=True)), abs=1e-6
        )
        assert point.reward_error == pytest.approx(stdev(rewards) / math.sqrt(3), abs=1e-6)
        assert point.kl == pytest.approx(math.log(n) - (n - 1) / n)
        assert point.name == f"best of {n}"


def test_the_point_of_a_run_is_its_last_evaluation():
    scores = [1.0, 2.0, 4.0, 1.0]
    evaluation = {
        "eval_reward": fmean(scores),
        "eval_reward_std": float(torch.tensor(scores).std(correction=0)),
        "eval_kl": 1.44,
        "eval_reward_gold": 0.5,
    }
    point = point_of_run(0.05, evaluation, 4)
    assert (point.name, point.kl, point.reward, point.gold) == ("PPO, beta 0.05", 1.44, 2.0, 0.5)
    assert point.sqrt_kl == pytest.approx(1.2)
    assert point.reward_error == pytest.approx(stdev(scores) / math.sqrt(4))
    assert point_of_run(0.05, {**evaluation, "eval_kl": -0.01}, 1).sqrt_kl == 0


def point(kl: float, reward: float) -> FrontierPoint:
    return FrontierPoint("ppo", 0.1, kl, reward, 0.0, None)


def test_on_the_frontier_is_what_nothing_nearer_beats():
    points = [point(0, 1), point(1, 3), point(1, 2), point(2, 3), point(3, 2.9), point(4, 5), point(1, 3)]
    assert undominated(points) == [True, True, False, False, False, True, True]


def test_between_two_points_the_curve_is_straight_in_the_root_of_the_divergence():
    curve = [point(4, 3.0), point(0, 1.0), point(9, 3.5)]  # at distances 2, 0 and 3
    assert reward_at(curve, 1.0) == pytest.approx(2.0)
    assert reward_at(curve, 6.25) == pytest.approx(3.25)
    assert reward_at(curve, 4.0) == pytest.approx(3.0)
    assert reward_at(curve, -0.1) == pytest.approx(1.0)  # an estimate below 0 is 0
    assert reward_at(curve, 9.1) is None
    assert reward_at([point(1, 1.0)], 1.0) is None


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_measures_samples_and_runs_on_the_same_prompts(tmp_path, capsys):
    table, folder = tmp_path / "points.json", tmp_path / "runs"
    frontier.run(
        arguments("--best-of", "1", "2", "--beta", "0.1", "0", "--json", str(table), "--output-dir", str(folder))
    )
    found = json.loads(table.read_text())
    assert found["model"] == "tiny"
    points = found["points"]
    assert [(p["method"], p["setting"]) for p in points] == [("best-of", 1), ("best-of", 2), ("ppo", 0.1), ("ppo", 0)]
    assert points[0]["kl"] == 0 and points[1]["kl"] == pytest.approx(math.log(2) - 0.5)
    for p in points:
        assert -1 <= p["reward"] <= 0 and -2 <= p["gold"] <= 1.5  # rows of the bundled world: gold is watched
        assert p["sqrt_kl"] == max(0, p["kl"]) ** 0.5 and p["reward_error"] >= 0
    last = json.loads((folder / "beta-0.1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (points[2]["reward"], points[2]["kl"], points[2]["gold"]) == (
        last["eval_reward"],
        last["eval_kl"],
        last["eval_reward_gold"],
    )
    config = (folder / "beta-0" / "config.yaml").read_text()
    assert "kl_coefficient: 0.0" in config
    picture = (folder / "frontier.svg").read_text()
    assert all(label in picture for label in ("best of n", "PPO", "reward: what is measured", "gold: what is wanted"))
    printed = capsys.readouterr().out
    assert "PPO, beta 0.1:" in printed and "best of 2" in printed
    # A second time: the runs are there, which is told before anything is measured.
    with pytest.raises(UserError, match=r"beta-0\.1"):
        frontier.run(arguments("--best-of", "1", "--beta", "0.1", "--output-dir", str(folder)))


def test_without_runs_nothing_is_trained_and_without_the_world_there_is_no_gold(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(4)))
    table = tmp_path / "points.json"
    output = tmp_path / "out"
    flags = ["--dataset", str(rows), "--eval-fraction", "0.5", "--best-of", "2", "--json", str(table)]
    frontier.run(arguments(*flags, "--output-dir", str(output)))
    (only,) = json.loads(table.read_text())["points"]
    assert only["gold"] is None and only["setting"] == 2
    assert [path.name for path in output.iterdir()] == ["frontier.svg"]


def test_the_presets_of_ppo_lie_below_the_flags():
    flags = ["--model", "tiny", "--preset", "quick", "--batch-size", "5"]
    found, of_ppo = commands.parse("frontier", [*flags, "--beta", "0.1"]), commands.parse("train-ppo", flags)
    assert found.training == of_ppo.training and found.dataset == of_ppo.dataset
    assert found.dataset.name == "tiny-prompts" and found.training.batch_size == 5
    assert found.beta == (0.1,) and found.best_of == (1, 2, 4, 8, 16)


def test_the_dry_run_says_what_would_be_measured(tmp_path, capsys):
    frontier.run(arguments("--beta", "0.5", "--dry-run", "--output-dir", str(tmp_path / "out")))
    assert "PPO runs         0.5" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--best-of"], "nothing to measure"),
        (["--best-of", "0"], "best.of"),
        (["--beta", "-0.1"], "beta"),
        (["--beta", "0.1", "0.10"], "0.1 0.1: one of them stands there twice"),
        (["--beta", "0.1", "--kl-target", "4"], "--kl-target would move the price"),
        (["--beta", "0.1", "--resume"], "--resume goes on with one run"),
        (["--plot", "points.txt"], "must end in"),
        (["--reward", "exact_macth"], "did you mean exact_match"),
        (["--eval-fraction", "0", "--eval-split", "", "--dataset", "rows.jsonl"], "held-out prompts"),
    ],
)
def test_a_wrong_argument_is_one_line(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Say something."}\n' * 3)
    with pytest.raises(UsageError, match=message) as caught:
        frontier.run(arguments(*argv))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
