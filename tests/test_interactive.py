"""The menu as people use it, in a real pseudo-terminal; and its questions one by one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import commands
from auto_bot_tuner.utils.errors import Interrupted, UserError
from src import interactive
from src.menu import launch, picks, screen, settings, stock, tools, training
from src.menu.ask import Questions
from src.menu.draft import Draft, find
from tests.pseudo_terminal import CLEAR, CTRL_C, CTRL_D, DOWN, ENTER, ROOT, UP, Terminal

HOME = "What would you like to do?"
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|38;|4[0-7]|48;|9[0-7])[0-9;]*m")


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Keys for the questions of this process, at a screen that shows nothing."""
    monkeypatch.chdir(tmp_path)
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


@pytest.fixture
def nothing() -> stock.Stock:
    return stock.Stock((), (), ())


# ---- the whole way ----


def test_train_chat_interrupt_and_resume_from_the_menu(tmp_path: Path) -> None:
    """A newcomer's afternoon: every answer by keys, every step seen on the screen."""
    with Terminal([], tmp_path) as terminal:
        terminal.wait("See the whole pipeline")  # nothing is trained yet: that is what it proposes
        terminal.choose(HOME, "Train")
        custom_run(terminal, {"Steps": {"max-steps": "3"}, "Data": {"max-samples": "40", "eval-max-samples": "8"}})
        terminal.wait("python main.py train-sft --model tiny")
        terminal.wait("Measuring time and memory")
        terminal.choose("Start?", "Start")
        terminal.choose("The model is trained. What next?", "Chat with it")
        terminal.wait("you>")
        terminal.type("Add 1 and 2.\r")
        terminal.until(lambda: terminal.text.count("you>") == 2, "an answer")
        terminal.type(CTRL_D)
        terminal.choose("The model is trained. What next?", "Back to the menu")
        assert (tmp_path / "checkpoints/sft/final/model.safetensors").exists() or (
            tmp_path / "checkpoints/sft/final/adapter_config.json"
        ).exists()

        # A run of many steps is stopped by Ctrl-C: the menu is still there, and offers to go on.
        terminal.choose(HOME, "Train")
        small = {"max-steps": "60", "batch-size": "2", "grad-accum": "1"}
        custom_run(terminal, {"Steps": small, "Data": {"max-samples": "240", "eval-max-samples": "8"}})
        terminal.wait("Measuring time and memory")
        terminal.type(CTRL_C)
        terminal.choose("Start?", "Start")  # it was skipped: there is no time to measure here
        terminal.wait("step 1/60")
        terminal.type(CTRL_C)
        terminal.wait("stopped after step")
        terminal.choose("The run waits.", "Back to the menu")
        terminal.wait("interrupted at step")
        terminal.choose(HOME, "→ Resume sft-2")
        terminal.wait("train-config checkpoints/sft-2/config.yaml --resume")
        terminal.choose("Start?", "Start")
        terminal.choose("The model is trained. What next?", "Back to the menu")
        terminal.choose(HOME, "Quit")
        assert terminal.end() == 0
        assert "resumed from checkpoints/sft-2/checkpoint-" in terminal.words
        assert "Traceback" not in terminal.wrote
    steps = [json.loads(line)["step"] for line in (tmp_path / "checkpoints/sft-2/metrics.jsonl").open()]
    assert steps == sorted(steps) and steps[-1] == 60


def custom_run(terminal: Terminal, changes: dict[str, dict[str, str]]) -> None:
    """SFT on the bundled world, with these settings changed section by section."""
    terminal.choose("Train what?", "SFT")
    terminal.choose("How?", "Custom")
    terminal.choose("Which model?", "tiny")
    terminal.choose("Which data set?", "tiny-instructions")
    for section, values in changes.items():
        terminal.choose("Which settings?", section)
        title = "Data" if section == "Data" else "Steps, optimiser, saving, logging"
        for name, value in values.items():
            terminal.choose(f"{title}:", name)
            terminal.answer(f"{name}:", value)
            terminal.until(lambda name=name, value=value: re.search(rf"\* {name} +{value}\b", terminal.text), name)  # type: ignore[misc]
        terminal.choose(f"{title}:", "done")
    terminal.choose("Which settings?", "That is all")
    terminal.wait("? output-dir:")
    terminal.type(ENTER)


def test_80_by_24_without_colour(tmp_path: Path) -> None:
    """The first screen fits with a tree that would not, no colour is written, and Ctrl-C goes back step by step."""
    for number in range(12):
        run_folder(tmp_path / f"checkpoints/a-rather-long-name-of-a-run-that-somebody-chose/{number}", "sft")
    run_folder(tmp_path / "checkpoints/preferring", "dpo", "checkpoints/nowhere/final")
    with Terminal([], tmp_path, NO_COLOR="1") as terminal:
        terminal.wait(f"? {HOME} (")
        terminal.wait("Quit")
        assert terminal.screen.lines[0].startswith("╭─ what is here"), "the panel is pushed off the screen"
        assert "… and" in terminal.text and "more: Models and data" in terminal.text
        assert "data  tiny-instructions" in terminal.text
        terminal.choose(HOME, "Train")
        terminal.choose("Train what?", "DPO")
        terminal.choose("How?", "Quick")
        terminal.choose("Which model?", "tiny")
        for asked in ("Which data set?", "Which model?", "How?", "Train what?", HOME):
            terminal.wait(f"? {asked} (")
            terminal.type(CTRL_C)
        assert terminal.end() == 0
        assert not COLOUR.search(terminal.wrote)
        assert "Traceback" not in terminal.wrote


def test_learn_shows_a_chapter_by_the_screen_and_ctrl_d_leaves(tmp_path: Path) -> None:
    with Terminal([], tmp_path) as terminal:
        terminal.choose(HOME, "Learn")
        terminal.choose("Which chapter?", "Direct preference optimisation")
        terminal.wait("? dpo.md,")
        assert len([line for line in terminal.screen.lines if line.strip()]) > 12
        terminal.choose("dpo.md, " + re.search(r"dpo\.md, (\d+ %)", terminal.text)[1], "go on")  # type: ignore[index]
        terminal.wait("? dpo.md,")
        terminal.type(CTRL_C)
        terminal.wait("? Which chapter? (")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_a_dumb_terminal_and_none_are_refused_with_the_cure(tmp_path: Path) -> None:
    with Terminal([], tmp_path, TERM="dumb") as terminal:
        assert terminal.end() == 2
        assert "TERM=dumb" in terminal.words
    told = subprocess.run([sys.executable, ROOT / "main.py"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert told.returncode == 2 and "needs a terminal" in told.stderr


def test_the_menu_opens_without_loading_anything_heavy() -> None:
    """The start-up that a person waits for: no torch, and little time of the processor's."""
    code = (
        "import src, sys, resource; import src.interactive as menu; from src.menu.stock import look_around;"
        "menu.entries(look_around(), menu.suggestions(look_around()));"
        "print([name for name in ('torch', 'transformers', 'datasets', 'matplotlib') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def run_folder(folder: Path, method: str, model: str = "tiny") -> None:
    """What a finished run leaves, as far as the menu looks."""
    (folder / "final").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"method: {method}\nmodel: {{name: {model}}}\n")
    (folder / "metrics.jsonl").write_text('{"step": 4, "eval_loss": 0.5, "eval_accuracy": 0.75}\n')


# ---- questions ----


def put(keyboard: Any, keys: str, draft: Draft, flag: str, **known: Any) -> Draft:
    setting = find(draft, flag)
    assert setting is not None
    keyboard.send_text(keys)
    return settings.ask_setting(draft, setting, known.get("way"))


def test_enter_takes_what_the_preset_says_and_needs_no_flag(keyboard: Any) -> None:
    draft = put(keyboard, ENTER, Draft("train-sft", ("--preset", "quick")), "--max-samples")
    assert draft.argv == ["--preset", "quick"]


def test_later_defaults_follow_earlier_answers(keyboard: Any) -> None:
    """Another model brings its own preset, and with it another data set."""
    draft = Draft("train-sft", ("--preset", "quick"), {"--model": ["--model", "tiny"]})
    assert put(keyboard, ENTER, draft, "--dataset").parsed().dataset.name == "tiny-instructions"


@pytest.mark.parametrize(
    ("flag", "keys", "words"),
    [
        ("--learning-rate", "3e-4", ["--learning-rate", "3e-4"]),
        ("--learning-rate", "x" + ENTER + CLEAR + "-1" + ENTER + CLEAR + "1e-3", ["--learning-rate", "1e-3"]),
        ("--epochs", CLEAR + ENTER + CLEAR + "2", ["--epochs", "2"]),
        ("--lora", DOWN, ["--no-lora"]),
        ("--lr-schedule", DOWN, ["--lr-schedule", "linear"]),
        ("--lora-targets", "'a" + ENTER + CLEAR + "'a b' c", ["--lora-targets", "a b", "c"]),
        ("--report-to", UP + " ", None),
        ("--system", "--be brief", ["--system=--be brief"]),
        ("--mix", "a.jsonl 0.7 tiny-text 0.3", ["--mix", "a.jsonl", "0.7", "tiny-text", "0.3"]),
    ],
)
def test_an_answer_becomes_words_and_a_wrong_one_is_asked_again(
    keyboard: Any, flag: str, keys: str, words: list[str] | None
) -> None:
    draft = put(keyboard, keys + ENTER, Draft("train-sft"), flag)
    if words is not None:
        assert draft.argv == words
    draft.parsed()


def test_an_emptied_line_is_an_answer(keyboard: Any) -> None:
    """Not the same as Enter: nothing, where the preset says something."""
    start = Draft("train-sft", ("--preset", "quick"), {"--model": ["--model", "tiny"]})
    assert start.parsed().training.learning_rate == 1e-3
    draft = put(keyboard, CLEAR + ENTER, start, "--learning-rate")
    assert draft.parsed().training.learning_rate is None


def test_what_is_needed_is_asked_until_it_is_there(keyboard: Any) -> None:
    draft = put(keyboard, ENTER + "tiny" + ENTER, Draft("chat"), "model")
    assert draft.argv == ["tiny"]


def test_settings_that_agree_only_together_can_be_changed_one_by_one(keyboard: Any) -> None:
    draft = put(keyboard, DOWN + ENTER, Draft("train-dpo"), "--loss")
    assert draft.answers["--loss"] == ["--loss", "conservative"] and "label_smoothing" in draft.complaint()
    draft = put(keyboard, CLEAR + "0.1" + ENTER, draft, "--label-smoothing")
    assert not draft.complaint() and draft.parsed().training.label_smoothing == 0.1


def test_an_answer_given_again_stands_where_it_stood(keyboard: Any) -> None:
    draft = Draft("train-sft").given("--model", ["--model", "a"]).given("--seed", ["--seed", "1"])
    assert draft.given("--model", ["--model", "b"]).argv == ["--model", "b", "--seed", "1"]


def test_a_folder_that_holds_a_run_is_not_taken_without_leave(keyboard: Any, nothing: stock.Stock) -> None:
    run_folder(Path("checkpoints/sft"), "sft")
    questions = Questions(Draft("train-sft"), nothing)
    keyboard.send_text(ENTER)
    questions.put("--output-dir")  # proposed: the next free one
    assert questions.draft.argv == ["--output-dir", "checkpoints/sft-2"]
    keyboard.send_text(CLEAR + "checkpoints/sft" + ENTER + ENTER + CLEAR + "elsewhere" + ENTER)
    questions.put("--output-dir")  # "choose another folder" stands first
    assert questions.draft.argv == ["--output-dir", "elsewhere"]
    keyboard.send_text(CLEAR + "checkpoints/sft" + ENTER + DOWN + ENTER)
    questions.put("--output-dir")
    assert questions.draft.argv == ["--overwrite"] or questions.draft.parsed().training.overwrite


def test_an_export_has_a_folder_proposed_that_is_free(keyboard: Any, nothing: stock.Stock) -> None:
    draft = Draft("convert", ("export",), {"--checkpoint": ["--checkpoint", "checkpoints/demo/sft/final"]})
    keyboard.send_text(ENTER)
    questions = Questions(draft, nothing)
    questions.put("--output")
    assert questions.draft.argv[-2:] == ["--output", "exports/demo-sft"]
    Path("exports/demo-sft").mkdir(parents=True)
    Path("exports/demo-sft/model.gguf").write_text("")
    keyboard.send_text(ENTER)
    again = Questions(draft, nothing)
    again.put("--output")
    assert again.draft.argv[-2:] == ["--output", "exports/demo-sft-2"]


@pytest.mark.parametrize("outcome", ["done", "failed", "interrupted"])
def test_a_comparison_that_was_stopped_is_proposed_again(
    outcome: str, nothing: stock.Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "review", lambda draft, change: (draft, outcome))
    monkeypatch.setattr(tools, "then", lambda question: None)
    monkeypatch.setattr(Questions, "put", lambda self, key: None)
    compared: set[str] = set()
    draft = Draft("evaluate", ("compare",), {"--model": ["--model", "a/final"], "--against": ["--against", "tiny"]})
    interactive.follow(draft, compared)(nothing)
    assert compared == ({"a/final"} if outcome == "done" else set())


def test_every_setting_of_every_method_can_be_changed_and_says_what_it_is() -> None:
    for method in ("sft", "reward", "dpo", "ppo", "grpo"):
        listed = [setting for _, group in settings.sections(f"train-{method}") for setting in group]
        config = commands.parse(f"train-{method}", [])
        fields = [name for part in (config.model, config.dataset, config.training) for name in vars(part)]
        names = [setting.name for setting in listed]
        assert sorted(names) == sorted(name for name in fields if not name.startswith("__"))
        assert all(settings.question_of(setting) for setting in listed)


def test_every_question_of_the_menu_is_about_a_setting_that_exists() -> None:
    from src.menu import tools

    for method in ("sft", "reward", "dpo", "ppo", "grpo"):
        for flag in (*training.first_questions(method), *training.OF_STANDARD, "--output-dir"):
            assert find(Draft(f"train-{method}"), flag), (method, flag)
        for flag in tools.INSPECT[method]:
            assert find(Draft("inspect", ("--method", method)), flag), (method, flag)
    for name in ("perplexity", "generation", "accuracy", "compare", "reward", "winrate"):
        for flag in tools.EVALUATE[name]:
            assert find(Draft("evaluate", (name,)), flag), (name, flag)


# ---- the start ----


def test_what_a_command_dies_of_is_said_and_the_menu_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, words in [
        (UserError("the disk is full"), "the disk is full"),
        (RuntimeError("CUDA\nerror"), "RuntimeError: CUDA error"),
        (KeyboardInterrupt(), "stopped"),
    ]:
        monkeypatch.setattr(commands, "run", lambda verb, argv, error=error: raise_(error))
        assert launch.carry_out(Draft("doctor")) == "failed"
        assert words in capsys.readouterr().out
    monkeypatch.setattr(commands, "run", lambda verb, argv: raise_(Interrupted("saved")))
    assert launch.carry_out(Draft("doctor")) == "interrupted"
    for ends in (Interrupted("saved", 143), type("Terminated", (KeyboardInterrupt,), {})()):
        monkeypatch.setattr(commands, "run", lambda verb, argv, error=ends: raise_(error))
        with pytest.raises(type(ends)):
            launch.carry_out(Draft("doctor"))


def raise_(error: BaseException) -> None:
    raise error


def test_settings_saved_from_the_menu_are_the_same_run(keyboard: Any) -> None:
    draft = Draft("train-dpo", ("--preset", "quick"), {"--beta": ["--beta", "0.3"], "--seed": ["--seed", "7"]})
    keyboard.send_text(CLEAR + "mine" + ENTER)
    launch.save(draft)
    again = commands.parse("train-config", ["mine.yaml"])
    asked = draft.parsed()
    assert (again.model, again.dataset, again.training) == (asked.model, asked.dataset, asked.training)


def offered(draft: Draft, flag: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names in the list that a setting is chosen from."""
    seen: list[str] = []
    monkeypatch.setattr(picks, "pick", lambda title, found, *_: seen.extend(name for name, _ in found) or found[0][0])
    setting = find(draft, flag)
    assert setting is not None
    way = picks.Picks(draft, stock.look_around()).way(setting)
    assert way is not None
    way(setting, "")
    return seen


def test_only_models_that_the_command_can_take_are_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reward models write no answers, nothing is compared with itself, and only adapters are merged."""
    monkeypatch.chdir(tmp_path)
    for method, model in (("sft", "tiny"), ("dpo", "checkpoints/sft/final"), ("ppo", "checkpoints/dpo/final")):
        run_folder(Path("checkpoints", method), method, model)
    run_folder(Path("checkpoints/reward"), "reward", "checkpoints/sft/final")
    for place in ("reward/final", "ppo/final/adapter"):
        Path("checkpoints", place).mkdir(exist_ok=True)
        Path("checkpoints", place, "adapter_config.json").write_text("{}")
    names = {method: f"checkpoints/{method}/final" for method in ("sft", "dpo", "ppo", "reward")}
    for measure in ("perplexity", "generation", "accuracy", "compare", "winrate", "benchmark"):
        writers = offered(Draft("evaluate", (measure,)), "--model", monkeypatch)
        assert set(writers) == {"tiny", names["sft"], names["dpo"], names["ppo"]}, measure
    assert offered(Draft("evaluate", ("reward",)), "--model", monkeypatch) == [names["reward"]]
    for measure in ("compare", "winrate"):
        draft = Draft("evaluate", (measure,), {"--model": ["--model", names["ppo"]]})
        others = offered(draft, "--against", monkeypatch)
        assert others[0] == names["dpo"] and names["ppo"] not in others  # what it came from stands first
    merged = offered(Draft("convert", ("merge-lora",)), "--lora-checkpoint", monkeypatch)
    assert merged == [names["reward"], f"{names['ppo']}/adapter"]
    assert names["reward"] in offered(Draft("push"), "checkpoint", monkeypatch)


def test_lists_begin_with_what_suits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PPO: policies that answer, and reward models as rewards; rows: those that were made for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    for method, model in (("sft", "tiny"), ("reward", "checkpoints/sft/final")):
        run_folder(Path("checkpoints") / method, method, model)
    Path("mine.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    here = stock.look_around()
    assert [name for name, _ in stock.models(here, "ppo")] == ["checkpoints/sft/final", "tiny"]
    assert [name for name, _ in stock.models(here, "judge")] == ["checkpoints/reward/final"]
    assert [name for name, _ in stock.data(here, "dpo")][:2] == ["tiny-preferences", "mine.jsonl"]
    assert stock.data(here, "ppo")[0][0] == "tiny-prompts"
    setting = find(Draft("train-ppo"), "--reward-model")
    assert setting is not None
    assert picks.Picks(Draft("train-ppo"), here).way(setting) is not None


def test_a_line_is_cut_and_never_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "columns", lambda: 40)
    assert all(len(line) <= 35 for line in screen.table([("a" * 50, "b" * 50), ("c", "d")]))
