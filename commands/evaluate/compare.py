"""`evaluate compare`: what several models answer to the same prompts, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tyro
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from commands.evaluate.answers import answers_of, lettered, print_models, print_side_by_side
from commands.evaluate.generation import GenerationArguments
from commands.evaluate.inputs import load, to_answer
from commands.evaluate.printing import check_picture, columns, measure_row, spread

if TYPE_CHECKING:  # it imports torch, and flags are parsed before anything heavy is
    from auto_bot_tuner.evaluation.intervals import Share
    from auto_bot_tuner.evaluation.quality import QualityReport


@dataclass(config=STRICT, kw_only=True)
class CompareArguments(GenerationArguments):
    """What do two or more models answer to the same prompts? Side by side, with the measures of `generation`; on the
    bundled data also how many answers are right."""

    # The models, base first: --models tiny checkpoints/mine/final
    models: tuple[str, ...] = ()
    # The first model, where --models does not name it.
    model: str = ""
    # A model to compare with; may be given several times.
    against: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # Data set whose prompts are answered. Empty, and no --prompt: tiny-instructions.
    dataset: str = ""
    # Print the answers to this many prompts, spread over the data; --prompt: to all.
    show: NonNegativeInt = 4


def measure(arguments: CompareArguments) -> dict[str, Any]:
    """Let all models answer, print the answers and their measures; both for `--json`."""
    letters = lettered(named(arguments))
    check_picture(arguments.plot)
    prompts, rows = asked_of(arguments)
    reports = dict(zip(letters, answers_of(arguments, [*letters.values()], prompts, arguments.generation), strict=True))
    right = {letter: share for letter, report in reports.items() if (share := share_right(rows, report)) is not None}
    for letter, share in right.items():
        reports[letter].metrics["right"] = share.value
    asked = reports["A"].prompts
    answers = [{letter: reports[letter].responses[i] for letter in letters} for i in range(len(asked))]
    print_models(letters)
    print()
    for i in range(len(asked)) if arguments.prompt else spread(len(asked), arguments.show):
        cut = {letter: "" if response.ended else " (cut off)" for letter, response in answers[i].items()}
        print_side_by_side(asked[i], {letter: answers[i][letter].text + cut[letter] for letter in letters})
    # A measure that one model's answers are too short for (no 4-gram) is missing there.
    measures = dict.fromkeys(name for report in reports.values() for name in ("right", *report.metrics))
    shown = [name for name in measures if any(name in report.metrics for report in reports.values())]
    table = [measure_row(name, *(report.metrics.get(name) for report in reports.values())) for name in shown]
    if right:
        intervals = ["{:.1%} to {:.1%}".format(*share.interval) for share in right.values()]
        table.insert(1, ["  95 % interval", *intervals])
    columns(f"{len(asked):,} prompts", ["", *letters], table)
    if arguments.plot:
        from auto_bot_tuner.evaluation.answer_charts import draw_generations

        told = {f"{letter}: {letters[letter]}": report.responses for letter, report in reports.items()}
        draw_generations(told, arguments.plot, f"answers to {len(asked):,} prompts")
        print(f"picture: {arguments.plot}")
    return {
        "models": letters,
        "metrics": {letter: report.metrics for letter, report in reports.items()},
        "right_interval_95": {letter: list(share.interval) for letter, share in right.items()},
        "samples": [
            {"prompt": prompt, "responses": {letter: response.text for letter, response in told.items()}}
            for prompt, told in zip(asked, answers, strict=True)
        ],
    }


def named(arguments: CompareArguments) -> list[str]:
    """The models in the order in which they are told.

    Raises:
        UsageError: fewer than two.
    """
    names = [*([arguments.model] if arguments.model else []), *arguments.models, *arguments.against]
    if len(names) < 2:
        raise UsageError("name two models or more: --models A B, or --model A --against B (again for each further one)")
    return names


def asked_of(arguments: CompareArguments) -> tuple[Any, Any]:
    """(what is to be answered, the rows it comes from, if any)."""
    if arguments.dataset and arguments.prompt:
        raise UsageError("say what to answer: either --dataset NAME or --prompt TEXT")
    if arguments.prompt:
        return arguments.prompt, None
    arguments.dataset = arguments.dataset or "tiny-instructions"
    rows = load(arguments)
    return to_answer(rows), rows


def share_right(rows: Any, report: QualityReport) -> Share | None:
    """The share of right answers, where the rows are of the bundled world, whose answers can be checked."""
    from auto_bot_tuner.assets.gold import is_correct
    from auto_bot_tuner.evaluation.intervals import Share

    if rows is None or not all(isinstance(rows[0].get(column), str) for column in ("task", "key", "output")):
        return None
    return Share(sum(is_correct(row, told.text) for row, told in zip(rows, report.responses, strict=True)), len(rows))
