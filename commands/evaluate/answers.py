"""Several models answer the same prompts: what `compare` and `winrate` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.terminal import neutral
from commands.evaluate.arguments import ModelArguments
from commands.evaluate.inputs import load_model

if TYPE_CHECKING:
    from auto_bot_tuner.evaluation.quality import QualityReport


def answers_of(
    arguments: ModelArguments, names: Sequence[str], prompts: Sequence[Any], generation: GenerationConfig
) -> list[QualityReport]:
    """Each model's answers, with the same seed. One model after the other is in memory."""
    from auto_bot_tuner.evaluation.quality import compare_model_outputs

    return [compare_model_outputs({name: load_model(arguments, name)}, prompts, generation)[name] for name in names]


def lettered(names: Sequence[str]) -> dict[str, str]:
    """A, B, … → model: paths are too long for the heads of columns.

    Raises:
        UsageError: there are more models than letters.
    """
    if len(names) > len(ascii_uppercase):
        raise UsageError(f"{len(names)} models are more than a table can hold: compare at most {len(ascii_uppercase)}")
    return dict(zip(ascii_uppercase, names, strict=False))


def print_models(letters: dict[str, str]) -> None:
    for letter, name in letters.items():
        print(f"{letter}: {neutral(name)}")


def print_side_by_side(prompt: str, answers: dict[str, str]) -> None:
    """One prompt and its answers: two or three beside each other, more of them below each other."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    print(f"> {neutral(prompt)}")
    if len(answers) > 3:
        for name, answer in answers.items():
            print(f"{neutral(name)}: {neutral(answer).strip()}")
    else:
        grid = Table(expand=True)
        for name in answers:
            grid.add_column(Text(neutral(name)), ratio=1, overflow="fold")
        grid.add_row(*(Text(neutral(answer).strip()) for answer in answers.values()))
        Console().print(grid)
    print()
