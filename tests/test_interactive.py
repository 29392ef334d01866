"""The menu at a simulated terminal: it asks, shows the line that does the same, and calls the same handler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import commands
from auto_bot_tuner.utils.errors import UserError
from src import interactive

ENTER, CTRL_C, DOWN, CLEAR = "\r", "\x03", "\x1b[B", "\x15"
QUICK = next(i for i, entry in enumerate(interactive.ENTRIES) if entry.flags == ("--preset", "quick"))


@pytest.fixture
def at_the_menu(monkeypatch) -> Callable[[str], list[tuple[str, list[str]]]]:
    """Type keys into the menu until it ends; gives the (verb, flags) that it ran."""
    ran: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(commands, "run", lambda verb, argv: ran.append((verb, argv)))

    def type_keys(keys: str) -> list[tuple[str, list[str]]]:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(keys)
            interactive.main_menu()
        return ran

    return type_keys


def test_every_entry_asks_for_settings_that_exist():
    for entry in interactive.ENTRIES:
        for flag in entry.asks:
            setting, _ = interactive.current(entry.verb, list(entry.flags), flag)
            assert setting.comment, (entry.title, flag)


def test_enter_takes_what_the_preset_says_and_shows_no_flag_for_it(at_the_menu):
    ran = at_the_menu(DOWN * QUICK + ENTER + ENTER * 4 + CTRL_C)
    assert ran == [("train-sft", ["--preset", "quick"])]


def test_answers_become_flags_and_later_defaults_follow_earlier_answers(at_the_menu):
    # Another model brings its own preset, so the data set's default is another one when it is asked.
    ran = at_the_menu(
        DOWN * QUICK + ENTER + CLEAR + "tiny" + ENTER + ENTER + CLEAR + "runs/mine" + ENTER + ENTER + CTRL_C
    )
    assert ran == [("train-sft", ["--preset", "quick", "--model", "tiny", "--output-dir", "runs/mine"])]
    arguments = commands.parse(*ran[0])
    assert (arguments.dataset.name, arguments.training.output_dir) == ("tiny-instructions", "runs/mine")


def test_ctrl_c_goes_one_step_back(at_the_menu):
    first = CLEAR + "tinny" + ENTER
    ran = at_the_menu(DOWN * QUICK + ENTER + first + CTRL_C + CLEAR + "tiny" + ENTER + ENTER * 3 + CTRL_C)
    assert ran == [("train-sft", ["--preset", "quick", "--model", "tiny"])]


def test_ctrl_c_at_the_first_question_is_back_in_the_menu_and_there_it_leaves(at_the_menu):
    assert at_the_menu(DOWN * QUICK + ENTER + CTRL_C + CTRL_C) == []


def test_no_at_the_start_question_runs_nothing(at_the_menu):
    assert at_the_menu(DOWN * QUICK + ENTER + ENTER * 3 + "n" + CTRL_C) == []


def test_a_wrong_answer_is_asked_again(at_the_menu):
    standard = QUICK + 1
    keys = DOWN * standard + ENTER + ENTER * 3 + CLEAR + "-3" + ENTER + CLEAR + "2" + ENTER + ENTER * 3 + CTRL_C
    assert at_the_menu(keys) == [("train-sft", ["--preset", "standard", "--epochs", "2"])]


def test_a_failing_command_leads_back_to_the_menu(at_the_menu, monkeypatch, capsys):
    def fail(verb: str, argv: list[str]) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(commands, "run", fail)
    at_the_menu(ENTER + ENTER + CTRL_C)


def test_the_value_of_a_setting_is_found_in_whatever_section_it_stands():
    assert interactive.current("train-sft", ["--epochs", "2"], "--epochs")[1] == 2.0
    assert interactive.current("train-sft", [], "--model")[1] == "gpt2"
    assert interactive.current("evaluate", ["perplexity"], "--model")[1] is None  # required: nothing to propose


def test_a_list_is_typed_word_by_word(monkeypatch):
    """It is shown as it would be typed, stays as it is on Enter, and an open quotation mark is asked about."""
    ppo = next(entry for entry in interactive.ENTRIES if entry.verb == "train-ppo")
    setting, value = interactive.current(ppo.verb, list(ppo.flags), "--reward-model")
    shown = interactive.as_text(value)
    assert shown == "checkpoints/reward/quick/final" and interactive.as_flags(setting, value, shown) == []
    answers = iter(["'a", "'a b' c"])
    monkeypatch.setattr(interactive, "put", lambda setting, value: next(answers))
    assert interactive.ask(ppo, list(ppo.flags), "--reward-model") == ["--reward-model", "a b", "c"]
