"""`evaluate compare`: what several models answer to the same prompts, side by side."""

from __future__ import annotations

from typing import Any

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from commands.evaluate.answers import answers_of, lettered, print_models, print_side_by_side
from commands.evaluate.generation import GenerationArguments, prompts_of
from commands.evaluate.printing import columns


@dataclass(config=STRICT, kw_only=True)
class CompareArguments(GenerationArguments):
    """What do two or more models answer to the same prompts? Side by side, with the measures of `generation`."""

    # A model to compare with; may be given several times.
    against: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


def measure(arguments: CompareArguments) -> dict[str, Any]:
    """Let all models answer, print the answers and their measures; both for `--json`."""
    if not arguments.against:
        raise UsageError("name a model to compare with: --against MODEL (again for each further one)")
    letters = lettered([arguments.model, *arguments.against])
    prompts = prompts_of(arguments)
    reports = dict(zip(letters, answers_of(arguments, [*letters.values()], prompts, arguments.generation), strict=True))
    print_models(letters)
    print()
    asked = reports["A"].prompts
    answers = [{letter: reports[letter].responses[i] for letter in letters} for i in range(len(asked))]
    for prompt, told in zip(asked, answers, strict=True):
        cut = {letter: "" if response.ended else " (cut off)" for letter, response in told.items()}
        print_side_by_side(prompt, {letter: told[letter].text + cut[letter] for letter in letters})
    # A measure that one model's answers are too short for (no 4-gram) is missing there.
    measures = dict.fromkeys(name for report in reports.values() for name in report.metrics)
    rows = [[name, *(report.metrics.get(name, "-") for report in reports.values())] for name in measures]
    columns(f"Generations ({len(asked)} prompts)", ["", *letters], rows)
    return {
        "models": letters,
        "metrics": {letter: report.metrics for letter, report in reports.items()},
        "samples": [
            {"prompt": prompt, "responses": {letter: response.text for letter, response in told.items()}}
            for prompt, told in zip(asked, answers, strict=True)
        ],
    }
