"""The demo: every stage is measured on the same held-out prompts, and its table is written as API.md says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from auto_bot_tuner.evaluation.accuracy import AccuracyReport
from auto_bot_tuner.evaluation.generation import Response
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.rlhf import create_reward_model_from_pretrained
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.run_config import load_run_config
from commands import CONFIGS, demo, demo_results, demo_tables, report
from tests.models import gpt2_tokenizer, tiny_model


@pytest.fixture
def random_stages(monkeypatch, tmp_path):
    """Two stages that know nothing: the table and the measuring without any training."""

    def saved(name: str, seed: int) -> demo.Stage:
        folder = tmp_path / name
        tiny_model("gpt2", seed).save_pretrained(folder)
        gpt2_tokenizer().save_pretrained(folder)
        return demo.Stage(name, lambda arguments, models: str(folder), f"Makes {name}.", f"{name}.", "README.md")

    def scoring(arguments: demo.Arguments, models: demo.Models) -> str:
        reward_model = create_reward_model_from_pretrained(models["sft"])
        reward_model.save_pretrained(tmp_path / "reward", gpt2_tokenizer())
        return str(tmp_path / "reward")

    reward = demo.Stage("reward", scoring, "Learns to score.", "each kind.", "README.md", answers=False)
    monkeypatch.setattr(demo, "STAGES", (saved("base", 0), saved("sft", 1), reward, saved("dpo", 1), saved("grpo", 2)))
    held_out = {"tiny-instructions": ROWS, "tiny-preferences": PAIRS, "tiny-puzzles": ROWS[:4]}
    monkeypatch.setattr(demo, "held_out_rows", lambda dataset, quick: held_out[dataset])
    monkeypatch.setattr(demo_results, "MAX_NEW_TOKENS", 4)


ROWS = [
    {"task": "sum", "key": f"{i}+1", "instruction": f"What is {i} plus 1?", "input": "", "output": f"{i + 1}."}
    for i in range(6)
]
PAIRS = [{"prompt": row["instruction"], "chosen": row["output"], "rejected": "No.", "category": "odd"} for row in ROWS]


def test_the_json_holds_each_stage_with_the_figures_that_it_has(random_stages, tmp_path, capsys):
    path = tmp_path / "new" / "table.json"
    demo.run(demo.Arguments(json=str(path), output_dir=str(tmp_path)))
    stages = {stage["name"]: stage for stage in json.loads(path.read_text())["stages"]}
    assert list(stages) == ["base", "sft", "reward", "dpo", "grpo"]
    answering = [stage for name, stage in stages.items() if name != "reward"]
    for stage in answering:
        assert 0 <= stage["accuracy"] <= 1 and 0 <= stage["ended"] <= 1 and stage["seconds"] >= 0
        assert stage["prompts"] == len(ROWS)
        assert -2 <= stage["gold"] <= 1.5 and isinstance(stage["reward"], float)
    # What is the same model as SFT's answers the same, ties with it, and has not moved.
    assert stages["dpo"]["gold"] == stages["sft"]["gold"] and stages["dpo"]["reward"] == stages["sft"]["reward"]
    assert stages["dpo"]["win_rate"] == stages["dpo"]["win_rate_sampled"] == 0.5
    assert stages["dpo"]["kl"] == pytest.approx(0, abs=1e-4)
    assert "kl" not in stages["base"] and "win_rate" not in stages["sft"]
    assert "accuracy" not in stages["reward"] and stages["reward"]["pairs"].keys() == {"all", "odd", "length alone"}
    assert stages["reward"]["pairs"]["length alone"] == 0.0  # "No." is always the longer one
    puzzled = {name for name, stage in stages.items() if {"puzzles", "puzzles_sampled"} <= stage.keys()}
    assert puzzled == {"sft", "grpo"}
    printed = capsys.readouterr().out
    assert "4 held-out puzzles: lists to sort downwards" in printed
    assert "6 held-out prompts" in printed and "Makes sft.\nLook at sft.\nRead README.md\n" in printed
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    assert "What is 0 plus 1?" in rows and "dpo greedy 50.0% ~ 19%–81% 0 6 0" in rows
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    # Said at each stage, by its figures; and the page, which is what stays.
    accuracy, gold = f"{stages['dpo']['accuracy']:.1%}", f"{stages['dpo']['gold']:.2f}"
    said = f"dpo: Gold {gold} → {gold}, accuracy {accuracy} → {accuracy}, win rate 50.0%, 0.0 nats from sft."
    assert said in " ".join(printed.split())
    assert str(tmp_path / "report.html") in printed.splitlines()[-2]


def test_the_page_tells_the_same_as_the_table(random_stages, tmp_path):
    folder = tmp_path / "demo"
    (folder / "sft").mkdir(parents=True)
    (folder / "sft" / "report.html").write_text("its page")
    demo.run(demo.Arguments(json=str(folder / "t.json"), output_dir=str(folder)))
    stages = {stage["name"]: stage for stage in json.loads((folder / "t.json").read_text())["stages"]}
    page = (folder / "report.html").read_text(encoding="utf-8")
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    for name in ("base", "sft", "dpo", "grpo"):
        figures = stages[name]
        cells = f"{figures['accuracy']:.1%} {interval_of(text, name)} {figures['ended']:.1%} {minus(figures['gold'])}"
        assert f"{name} {cells}" in text
        assert f"Makes {name}. " in text and f"Look at {name}." in text
    assert "length alone 6 0.0%" in text and "What is 0 plus 1?" in text
    assert page.count('href="sft/report.html"') == 2 and 'href="dpo/report.html"' not in page  # only what is there
    assert "://" not in page and "<script" not in page
    # The page can be made again without any model.
    (folder / "report.html").unlink()
    report.run(report.Arguments(runs=(str(folder),)))
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def interval_of(text: str, name: str) -> str:
    found = re.search(rf" {name} [\d.]+% (\d+–\d+%) ", text)
    assert found is not None
    return found[1]


def minus(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def test_a_puzzle_counts_by_its_own_answers_and_each_way_of_writing_apart(monkeypatch, tmp_path):
    """Three right of four when greedy, one of four when sampled: what the model would say is planted."""
    said = {0.0: ["1.", "2.", "3.", "no"], 1.0: ["1.", "no", "no", "no"]}

    def respond(model, tokenizer, questions, config):
        assert [question[-1]["content"] for question in questions] == [row["instruction"] for row in ROWS[:4]]
        return [Response(text, True, [1], [0.0]) for text in said[config.temperature]]

    monkeypatch.setattr("auto_bot_tuner.evaluation.accuracy.respond", respond)
    result = demo_results.Result("grpo", 1.0)
    demo_results.measure_puzzles(result, {"grpo": "tiny"}, ROWS[:4])
    assert {how: share.value for how, share in result.puzzles.items()} == {"greedy": 0.75, "temperature 1": 0.25}
    figures = result.as_json()
    assert (figures["puzzles"], figures["puzzles_sampled"]) == (0.75, 0.25)


def test_stages_train_by_their_shipped_configs_from_the_models_before(monkeypatch, tmp_path):
    ran = {}
    for method in ("ppo", "grpo"):
        monkeypatch.setattr(f"commands.train_{method}.train", lambda config: ran.setdefault(config.method, config))
    models = {"sft": "the sft model", "reward": "the reward model"}
    for quick, preset in ((True, "quick"), (False, "standard")):
        ran.clear()
        arguments = demo.Arguments(quick=quick, output_dir=str(tmp_path))
        made = {stage.name: stage.make(arguments, models) for stage in demo.STAGES if stage.name in ("ppo", "grpo")}
        for method, config in ran.items():
            shipped = load_run_config(CONFIGS / f"{method}_tiny_{preset}.yaml")
            assert config.model.name == "the sft model" and config.dataset == shipped.dataset
            assert made[method] == f"{config.training.output_dir}/final"
            assert config.training.learning_rate == shipped.training.learning_rate and config.training.overwrite
        assert ran["ppo"].training.reward_model == ("the reward model",)
        assert ran["grpo"].training.reward == ("correct",)


def test_a_file_that_cannot_be_written_is_known_before_the_work(random_stages, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "measure_answers", lambda *_: pytest.fail("worked first"))
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "table.json", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            demo.run(demo.Arguments(json=str(path)))


def test_an_earlier_table_survives_a_demo_that_fails(random_stages, tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("no model")

    monkeypatch.setattr(demo, "measure_answers", fails)
    path = tmp_path / "table.json"
    path.write_text("an earlier table")
    with pytest.raises(UserError, match="no model"):
        demo.run(demo.Arguments(json=str(path), output_dir=str(tmp_path / "demo")))
    assert path.read_text() == "an earlier table"
    with pytest.raises(UserError, match="no model"):
        demo.run(demo.Arguments(json=str(tmp_path / "new" / "table.json")))
    assert not (tmp_path / "new").exists()


def test_held_out_rows_are_the_test_split_and_the_quick_ones_have_every_task():
    rows, some = (demo.held_out_rows("tiny-instructions", quick) for quick in (False, True))
    assert len(rows) >= 400 and 90 <= len(some) <= 110
    assert {row["task"] for row in some} == {row["task"] for row in rows}


def test_every_stage_names_a_file_that_exists():
    root = Path(demo.__file__).parent.parent
    for stage in demo.STAGES:
        assert (root / stage.read).is_file()


def test_what_is_found_goes_by_the_figures(monkeypatch):
    """A quick demo whose GRPO learnt nothing says so: 0% → 0%."""

    def answers(accuracy: int, puzzles: int) -> demo_results.Result:
        result = demo_results.Result("sft", 1.0)
        result.report = AccuracyReport(Share(accuracy, 10), {}, Share(10, 10), [], [], [])
        result.puzzles = {"greedy": Share(9, 10), "temperature 1": Share(puzzles, 10)}
        result.gold = {"greedy": [0.5, 1.0]}
        return result

    start, result = answers(9, 0), answers(8, 0)
    assert demo_tables.found(start, []) == "Accuracy 90.0%, ended 100.0%."
    assert "Puzzles at temperature 1 0.0% → 0.0%, accuracy 90.0% → 80.0%" in demo_tables.found(result, [start])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_demo_teaches_the_tiny_model_to_answer_and_to_stop(tmp_path):
    path = tmp_path / "table.json"
    demo.run(demo.Arguments(json=str(path), output_dir=str(tmp_path / "demo")))
    base, sft, reward, dpo, ppo, grpo = json.loads(path.read_text())["stages"]
    assert base["accuracy"] < 0.05
    assert sft["accuracy"] > 0.75 and sft["ended"] >= 0.98
    assert reward["pairs"]["all"] >= 0.85 and reward["pairs"]["length alone"] <= 0.6
    assert dpo["win_rate"] >= 0.85 and dpo["win_rate_sampled"] >= 0.65
    assert dpo["accuracy"] >= sft["accuracy"] - 0.03
    assert dpo["gold"] > sft["gold"] and dpo["reward"] > sft["reward"]
    assert ppo["win_rate"] >= 0.85 and ppo["accuracy"] >= sft["accuracy"] - 0.03 and ppo["kl"] <= 4
    assert ppo["gold_sampled"] > sft["gold_sampled"] and ppo["reward"] > sft["reward"]
    assert grpo["puzzles"] >= sft["puzzles"] + 0.06 and grpo["puzzles_sampled"] >= sft["puzzles_sampled"] + 0.12
    others = [task for task in sft["tasks"] if task != "sort_down"]
    before, after = (sum(stage["tasks"][task] for task in others) / len(others) for stage in (sft, grpo))
    assert after >= before - 0.03


def test_a_quick_look_does_not_overwrite_the_whole_demo() -> None:
    assert demo.Arguments().output_dir != demo.Arguments(quick=True).output_dir
    assert demo.Arguments(quick=True, output_dir="mine").output_dir == "mine"
