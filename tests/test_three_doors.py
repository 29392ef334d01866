"""Menu, flags and YAML are three doors to one run: the same answers give equal resolved settings, for every method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import commands
from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, load_run_config
from auto_bot_tuner.utils.settings import Setting
from commands.layers import preset_path
from src.menu import settings
from src.menu.draft import Draft, as_text, find
from src.menu.kinds import bare, is_list, words_to_choose
from tests.pseudo_terminal import CLEAR, DOWN, ENTER, UP

PRESETS = [("", ""), ("quick", "gpt2"), ("standard", "tiny")]  # the classes alone, the general family, the bundled one

# (section, field in YAML, flag, value): every kind of answer, and settings that agree only together.
SHARED: list[tuple[str, str, str, Any]] = [
    ("model", "use_lora", "--lora", True),  # a bool
    ("model", "lora_targets", "--lora-targets", ("c_attn", "a name")),  # words
    ("model", "dtype", "--dtype", "bfloat16"),  # a choice
    ("dataset", "max_samples", "--max-samples", 123),  # an int
    ("dataset", "eval_fraction", "--eval-fraction", 0.25),  # a float
    ("dataset", "system_prompt", "--system", "-- Be 'brief' and $kind."),  # a text that no shell would leave alone
    ("dataset", "mix", "--mix", {"a b.jsonl": 0.5, "tiny-text": 2.0}),  # names with weights
    ("training", "output_dir", "--output-dir", "runs/of mine"),
    ("training", "seed", "--seed", 4294967295),
    ("training", "num_epochs", "--epochs", 0.5),
    ("training", "learning_rate", "--learning-rate", None),  # nothing, where a preset says something
    ("training", "lr_schedule", "--lr-schedule", "linear"),
    ("training", "warmup", "--warmup", 7.0),
    ("training", "sample_prompts", "--sample-prompts", ("Say 'hi'.", "-1 + 1?")),
    ("training", "report_to", "--report-to", ()),
    ("training", "keep_best", "--keep-best", True),
]
FEW = [change for change in SHARED if change[1] in ("use_lora", "mix", "learning_rate", "sample_prompts", "warmup")]
OWN: dict[str, list[tuple[str, str, str, Any]]] = {
    "sft": [
        ("training", "from_best_of", "--from-best-of", 4),
        ("training", "reward", "--reward", ("numeric", "0.2*length:64")),
        ("training", "neftune_alpha", "--neftune-alpha", 5.0),
    ],
    "reward": [
        ("training", "objective", "--objective", "scores"),
        ("training", "frozen_base", "--frozen-base", True),
        ("training", "centering", "--centering", 0.01),
    ],
    "dpo": [
        ("training", "sft_weight", "--sft-weight", 0.0),
        ("training", "loss", "--loss", "conservative"),
        ("training", "label_smoothing", "--label-smoothing", 0.1),
        ("training", "beta", "--beta", 0.3),
    ],
    "ppo": [
        ("training", "value_from", "--value-from", "policy"),
        ("training", "reward_ensemble", "--reward-ensemble", "min"),
        ("training", "reward_model", "--reward-model", ("a folder", "b")),
        ("training", "kl_coefficient", "--kl-coefficient", 0.2),
        ("training", "kl_target", "--kl-target", 6.0),
        ("training", "whiten_advantages", "--whiten-advantages", False),
    ],
    "grpo": [
        ("training", "loss", "--loss", "dapo"),
        ("training", "clip_ratio", "--clip-ratio", 0.1),
        ("training", "reward", "--reward", ("exact_match",)),
        ("training", "mask_unfinished", "--mask-unfinished", True),
        ("training", "group_size", "--group-size", 4),
    ],
}


@pytest.fixture
def keyboard() -> Iterator[Any]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def through_the_menu(keyboard: Any, start: tuple[str, ...], method: str, changes: list[Any]) -> Any:
    """The arguments after typing each answer into the question that its setting gets."""
    draft = Draft(f"train-{method}", start)
    for _, name, flag, value in changes:
        setting = find(draft, flag)
        assert setting is not None and setting.name == name
        keyboard.send_text(keys_for(setting, value, settings.current(draft, setting)))
        draft = settings.ask_setting(draft, setting)
    return commands.parse(draft.verb, draft.argv)


def keys_for(setting: Setting, value: Any, now: Any) -> str:
    """What a person presses to answer so."""
    if bare(setting.annotation) is bool and now is None:
        return UP + ENTER if value is False else DOWN + ENTER
    if bare(setting.annotation) is bool:
        return (DOWN if now and not value else UP if value and not now else "") + ENTER
    words = words_to_choose(setting.annotation)
    if words and is_list(setting):
        ticks = [word for word in words if (word in value) != (word in now)]
        return "".join(DOWN * words.index(word) + " " + UP * words.index(word) for word in ticks) + ENTER
    if words:
        return DOWN * ((words.index(value) - words.index(now)) % len(words)) + ENTER
    return CLEAR + as_text(value) + ENTER


def as_flags(changes: list[Any]) -> list[str]:
    """The same by hand, as one writes flags."""
    words: list[str] = []
    for _, _, flag, value in changes:
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            words += [flag, *(str(word) for pair in value.items() for word in pair)]
        elif isinstance(value, tuple):
            words += [flag, *value]
        else:
            words.append(f"{flag}={value}")
    return words


def as_yaml(file: Path, method: str, changes: list[Any]) -> Path:
    """The same as a file."""
    sections: dict[str, Any] = {"method": method}
    for section, name, _, value in changes:
        sections.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    file.write_text(yaml.safe_dump(sections))
    return file


@pytest.mark.parametrize(("preset", "model"), PRESETS, ids=lambda value: str(value) or "plain")
@pytest.mark.parametrize("method", TRAINING_CLASSES)
def test_three_doors(keyboard: Any, tmp_path: Path, method: str, preset: str, model: str) -> None:
    named = [("model", "name", "--model", model)] if model == "tiny" else []
    changes = [*named, *(SHARED if method == "sft" else FEW), *OWN[method]]
    if (method, model) == ("grpo", "tiny"):
        # These presets name a mix, which the flag cannot replace: a file and a flag would differ (see below).
        changes = [change for change in changes if change[1] != "mix"]
    start = ("--preset", preset) if preset else ()

    flags = commands.parse(f"train-{method}", [*start, *as_flags(changes)])
    menu = through_the_menu(keyboard, start, method, changes)
    file = as_yaml(tmp_path / "mine.yaml", method, changes)
    config = load_run_config(file, preset=preset_path(method, model or "gpt2", preset))
    by_file = commands.parse("train-config", [str(file), *start])

    for section in ("model", "dataset", "training"):
        assert getattr(menu, section) == getattr(flags, section) == getattr(config, section)
        assert getattr(by_file, section) == getattr(config, section)
    for section, name, _, value in changes:  # and they are what was asked for, not merely alike
        assert getattr(getattr(flags, section), name) == value


def test_yes_no_or_neither(keyboard: Any) -> None:
    """A setting that is unset until somebody decides."""
    changes = [("training", "scale_by_std", "--scale-by-std", False)]
    menu = through_the_menu(keyboard, (), "grpo", changes)
    assert menu.training == commands.parse("train-grpo", ["--scale-by-std", "False"]).training
    assert menu.training.scale_by_std is False


def test_yes_no_or_neither_in_a_file(tmp_path: Path) -> None:
    file = as_yaml(tmp_path / "mine.yaml", "grpo", [("training", "scale_by_std", "", False)])
    assert load_run_config(file).training.scale_by_std is False  # type: ignore[attr-defined]


def test_a_mix_replaces_a_presets_mix() -> None:
    arguments = commands.parse("train-grpo", ["--preset", "quick", "--model", "tiny", "--mix", "tiny-text", "2.0"])
    assert arguments.dataset.mix == {"tiny-text": 2.0}


@pytest.mark.parametrize(("preset", "model"), [("", ""), ("quick", "tiny")], ids=lambda value: str(value) or "plain")
@pytest.mark.parametrize("method", TRAINING_CLASSES)
def test_enter_at_every_question_changes_nothing(keyboard: Any, method: str, preset: str, model: str) -> None:
    """All settings of a method, asked one after the other: what is proposed is what holds."""
    start = (*(("--preset", preset) if preset else ()), *(("--model", model) if model else ()))
    draft = Draft(f"train-{method}", start)
    before = commands.parse(draft.verb, draft.argv)
    for _, group in settings.sections(draft.verb):
        for setting in group:
            keyboard.send_text(ENTER)
            draft = settings.ask_setting(draft, setting)
    assert draft.argv == list(start)
    after = commands.parse(draft.verb, draft.argv)
    assert (after.model, after.dataset, after.training) == (before.model, before.dataset, before.training)
