"""The reward-hacking lab: its flaws by hand, its stop rule, and a whole small lab that is the same run twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from auto_bot_tuner.assets.gold import gold_score
from auto_bot_tuner.evaluation.divergence_charts import Line, draw_against_divergence, text_chart
from auto_bot_tuner.rewards import Attempt
from auto_bot_tuner.rlhf import hacking_lab as lab
from auto_bot_tuner.rlhf.flawed_rewards import ENSEMBLE, PROXY, brevity, exclamations, statements
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.utils.arguments import parse_arguments
from auto_bot_tuner.utils.errors import UsageError, UserError
from commands import reward_hacking, train_sft
from tests.rl_runs import letter_prompts, ppo_trainer

QUESTION = "What does the cow eat?"
ROW = {"task": "animal_fact", "key": "cow/eats", "instruction": QUESTION, "output": "The cow eats grass."}
HONEST = "Sure! The cow eats grass."
REPEATED = "The cow eats grass. " * 7
GLAD = "Sure! Sure! Sure! Sure! Sure! Sure! Sure! Sure! Sure! Sure!"
ARMS = ["no-kl", "kl", "ensemble", "early-stop"]


def attempt(response: str) -> Attempt:
    return Attempt([{"role": "user", "content": QUESTION}], response.strip(), True, ROW, [1], [2])


# --- rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "of_statements", "of_exclamations", "of_brevity"),
    [
        ("The cow eats grass.", 0, 0, 1.6),
        (HONEST, 0, 1, 1.4),
        (REPEATED, 6, 0, 0),
        (GLAD, 0, 10, 0.4),
        ("The cow eats. I hope this helps. Yes", 1, 0, 0.8),
        ("", 0, 0, 2.4),
    ],
)
def test_each_prejudice_pays_what_is_said_of_it(response, of_statements, of_exclamations, of_brevity):
    assert statements(response) == of_statements
    assert exclamations(response) == of_exclamations
    assert brevity(response) == pytest.approx(of_brevity)


def test_a_proxy_is_gold_and_a_bonus_and_an_ensemble_the_lowest_of_them():
    responses = ["The cow eats grass.", HONEST, REPEATED, GLAD]
    gold = [gold_score(ROW, response) for response in responses]
    assert gold == [1.0, 1.5, 0.0, 0.0]  # right, but long and said twice; polite, but said twice and no answer
    attempts = [attempt(response) for response in responses]
    assert PROXY(attempts) == [1.0, 1.5, 6.0, 0.0]
    assert ENSEMBLE(attempts) == pytest.approx([1.0, 1.5, 0.0, 0.0])


def test_the_flaw_pays_more_than_the_truth_and_the_ensemble_does_not_pay_it():
    honest = attempt(HONEST)
    for hack, flawed in ((attempt(REPEATED), PROXY), (attempt(GLAD), ENSEMBLE.sources[1])):
        assert flawed([hack]) > flawed([honest])
        assert ENSEMBLE([hack]) < ENSEMBLE([honest])


# --- the stop rule ----------------------------------------------------------------------------------------------------


def test_a_run_ends_at_the_first_evaluation_that_is_past_the_limit():
    config = SimpleNamespace(max_steps=40)
    stop = lab.StopAtKL(2.0)

    def told(name: str, step: int, metrics: dict[str, float]) -> int:
        stop(Event(name, step, metrics, SimpleNamespace(config=config)))
        return config.max_steps

    assert told("evaluate", 0, {"eval_kl": 9.0}) == 40  # there is nothing to stop yet, and 0 would mean no end
    assert told("evaluate", 4, {"eval_kl": 2.0}) == 40
    assert told("log", 6, {"kl": 9.0}) == 40
    assert told("evaluate", 8, {"eval_kl": 2.1}) == 8


def test_a_stopped_run_takes_no_step_more_and_leaves_its_model(tmp_path):
    trainer = ppo_trainer(tmp_path / "run", eval_dataset=letter_prompts(4), eval_steps=2, max_steps=6)
    trainer.callbacks.append(lab.StopAtKL(-1e9))
    summary = trainer.train()
    assert summary["steps"] == 2
    assert (Path(summary["final"]) / "model.safetensors").is_file()


# --- the whole lab ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_lab(monkeypatch):
    """Rollouts of four prompts and eight tokens, by the base model."""
    real = lab.config_of

    def small(*arguments):
        return dataclasses.replace(real(*arguments), batch_size=2, max_new_tokens=8, learning_rate=1e-3)

    monkeypatch.setattr(lab, "config_of", small)
    monkeypatch.setattr(lab, "scale_of", lambda quick, rollouts: lab.Scale(rollouts, every=1, prompts=4))


def test_the_lab_writes_the_curves_of_all_arms_and_draws_them(small_lab, tmp_path, capsys):
    table, folder = tmp_path / "lab.json", tmp_path / "lab"
    reward_hacking.run(
        reward_hacking.Arguments(model="tiny", rollouts=2, kl_limit=1e6, json=str(table), output_dir=str(folder))
    )
    found = json.loads(table.read_text())
    assert (found["model"], found["seed"], found["prompts"]) == ("tiny", 42, 4)
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert list(arms) == ARMS
    for arm in arms.values():
        assert [point["step"] for point in arm["points"]] == [0, 4, 8]
        start = arm["points"][0]
        assert start["kl"] == pytest.approx(0, abs=1e-4) and start == arms["no-kl"]["points"][0] | {
            "reward": start["reward"]
        }
        for point in arm["points"]:
            assert point["sqrt_kl"] == max(0, point["kl"]) ** 0.5
            assert -2 <= point["gold"] <= 1.5 and point["proxy"] >= point["gold"]  # the bonus is never negative
        assert arm["seconds"] > 0 and not arm["stopped"]
    # What is paid is the proxy, but in the ensemble: there the lowest of three.
    assert all(point["reward"] == point["proxy"] for name in ("no-kl", "kl") for point in arms[name]["points"])
    assert all(point["reward"] <= point["proxy"] for point in arms["ensemble"]["points"])
    # The same seed is the same run: with a limit that is never reached, stopping early is no cure at all.
    assert arms["early-stop"]["points"] == arms["no-kl"]["points"]
    assert arms["kl"]["points"][1:] != arms["no-kl"]["points"][1:]
    picture = (folder / "reward-hacking.svg").read_text()
    assert all(label in picture for label in [*ARMS, "proxy: what is measured", "gold: what is wanted", "√KL"])
    assert found["plot"] == str(folder / "reward-hacking.svg")
    printed = capsys.readouterr().out
    assert "a no-kl, b kl, c ensemble, d early-stop" in printed and "one prompt" in printed
    assert (folder / "no-kl" / "final" / "model.safetensors").is_file()


def curve(*points: tuple[float, float, float], limit: float = float("inf")) -> lab.Curve:
    """Of (proxy, gold, KL)."""
    arm = dataclasses.replace(lab.arms(0.2, limit)[3], name="arm")
    made = [
        lab.Point(step=4 * i, proxy=proxy, gold=gold, reward=proxy, kl=kl, response_length=9, prompt="?", sample="!")
        for i, (proxy, gold, kl) in enumerate(points)
    ]
    return lab.Curve(arm, made)


def test_the_verdict_on_a_curve_is_what_its_numbers_say():
    hacked = curve((1.5, 1.0, 0), (2.0, 1.2, 1), (3.0, -0.2, 9))
    assert hacked.is_hacked
    told = reward_hacking.verdict(hacked)
    assert "proxy +1.50, gold -1.20: hacked" in told and "best (1.20) at √KL 1.0" in told
    healthy = curve((1.5, 1.0, 0), (2.0, 1.4, 2.5), limit=2)
    assert not healthy.is_hacked and healthy.is_stopped
    assert "not hacked so far. It stopped at 2.5 nats, after 4 steps" in reward_hacking.verdict(healthy)
    noise = curve((1.5, 1.0, 0), (3.0, 0.95, 1), limit=2)
    assert not noise.is_hacked and not noise.is_stopped
    assert "not for the flaw's sake" in reward_hacking.verdict(curve((1.5, 1.0, 0), (1.4, 0.5, 1)))


def test_the_table_fits_80_columns_with_whole_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    wide = curve((1.5, 1.0, 0), (-13.25, -1.2, 123.4))
    reward_hacking.print_table([dataclasses.replace(wide, arm=lab.arms(0.2, 6)[3], seconds=1234.0)])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    heads = next(line for line in printed.splitlines() if "proxy" in line and "KL" in line)
    assert heads.replace("┃", " ").split() == ["arm", "proxy", "gold", "best", "KL", "√KL", "tokens", "steps", "s"]
    assert "early-stop" in printed and "-13.25" in printed


def test_a_look_says_that_it_is_one_and_what_the_whole_lab_takes():
    arm = dataclasses.replace(curve((1.0, 1.0, 0), (1.2, 1.0, 1)), seconds=37.5)
    told = reward_hacking.only_a_look([arm] * 4)
    assert "4 steps are mostly too few" in told and "without --quick, takes about 6 minutes here" in told
    assert "about 1 minute here" in reward_hacking.only_a_look([dataclasses.replace(arm, seconds=1.0)])


# --- what it starts from, and what it refuses -------------------------------------------------------------------------


def test_the_lab_starts_from_the_model_that_is_there_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert reward_hacking.start_model(reward_hacking.Arguments(model="mine")) == "mine"
    there = Path("checkpoints/sft/tiny/final")
    there.mkdir(parents=True)
    (there / "config.json").write_text("{}")
    assert reward_hacking.start_model(reward_hacking.Arguments()) == str(there)
    assert f"{there}, which is here already" in capsys.readouterr().out


@pytest.mark.parametrize(("quick", "preset"), [(True, 1500), (False, 0)])
def test_without_an_sft_model_one_is_trained_by_the_shipped_config(quick, preset, tmp_path, monkeypatch, capsys):
    configs = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_sft, "train", configs.append)
    model = reward_hacking.start_model(reward_hacking.Arguments(quick=quick, output_dir="lab"))
    assert model == str(Path("lab/sft/final"))
    (config,) = configs
    assert (config.model.name, config.dataset.name, config.dataset.max_samples) == ("tiny", "tiny-instructions", preset)
    assert Path(config.training.output_dir) == Path("lab/sft")
    assert "trained first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--plot", "curves.txt"], "must end in .png, .svg, .pdf"),
        (["--kl-limit", "0"], "kl.limit"),
        (["--kl-coefficient", "-1"], "kl.coefficient"),
        (["--rollouts", "-3"], "rollouts"),
        (["--json", "."], "cannot write --json"),
    ],
)
def test_a_wrong_argument_is_one_line(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        reward_hacking.run(parse_arguments(reward_hacking.Arguments, argv, "python main.py reward-hacking"))
    assert isinstance(caught.value, UsageError) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# --- charts -----------------------------------------------------------------------------------------------------------


def test_a_chart_of_letters_has_every_point_in_its_place():
    near, far = Line("near", [0.0, 1.0], [0.0, 2.0]), Line("far", [-1e-4, 4.0], [0.0, 1.0])
    drawn = text_chart([near, far], "gold", width=5, height=3).splitlines()
    assert drawn[0] == "gold   (a near, b far)"
    assert drawn[1:4] == ["   2.00 │  a", "        │    b", "   0.00 │+"]  # √KL: 1 is half of the way to 2
    assert drawn[-1].endswith("√KL 2.00")


def test_a_chart_of_one_point_does_not_divide_by_nothing():
    assert "a" in text_chart([Line("start", [0.0], [1.0])], "gold").splitlines()[1]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        draw_against_divergence({"gold": [Line("arm", [0.0], [1.0])]}, tmp_path / "file" / "a.svg")
