"""`evaluate accuracy`: how many answers are right?"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from commands.evaluate.arguments import RowArguments
from commands.evaluate.inputs import load, load_model
from commands.evaluate.printing import check_picture, columns, print_exchange, share_rows, spread

if TYPE_CHECKING:  # these import torch, and flags are parsed before anything heavy is
    from auto_bot_tuner.evaluation.accuracy import AccuracyReport
    from auto_bot_tuner.evaluation.intervals import Share


@dataclass(config=STRICT, kw_only=True)
class AccuracyArguments(RowArguments):
    """How many answers are right? By task, with 95 % intervals; what counts as right is said in the table. With
    --samples N and a --temperature: how often one is right (mean), and whether one of k is (pass@k)."""

    # Data set with questions, and reference answers where the scorer needs them (prompt or question, and answer).
    dataset: str = "tiny-instructions"
    # What is right: exact_match, numeric, regex:PATTERN, json[:KEY,…], ended, correct (the bundled world's), or
    # file.py:function of yours, which takes (prompt, response) or (prompt, response, row) and returns 1 or 0; this runs
    # the file's code. Empty: correct for bundled data, else exact_match.
    scorer: str = ""
    # Answers to each question; more than one needs a --temperature above 0.
    samples: PositiveInt = 1
    # Print this many answers of each kind, right and wrong.
    show: NonNegativeInt = 3
    # How the answers are written.
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    # Draw the shares by task into this file: .png, .svg or .pdf.
    plot: str = ""


def measure(arguments: AccuracyArguments) -> dict[str, Any]:
    """Let the model answer, check and print; the shares for `--json`."""
    from auto_bot_tuner.assets import BUNDLED_DATASETS
    from auto_bot_tuner.evaluation.scorers import check_rows, scorer_named

    check_picture(arguments.plot)
    if arguments.samples > 1 and not arguments.generation.temperature:
        raise UsageError(f"--samples {arguments.samples} would be the same answer: set a --temperature above 0")
    is_bundled = arguments.dataset in BUNDLED_DATASETS
    scorer = scorer_named(arguments.scorer or ("correct" if is_bundled else "exact_match"))
    rows = load(arguments)
    check_rows(scorer, rows)  # a row without a question and an answer is found before the model is loaded
    model, tokenizer = load_model(arguments)

    from auto_bot_tuner.evaluation.accuracy import evaluate_accuracy

    report = evaluate_accuracy(model, tokenizer, rows, scorer, arguments.generation, arguments.samples)
    show_answers(report, arguments.show)
    title = f"Accuracy of {arguments.model} on {arguments.dataset} ({len(rows):,} questions)"
    print_report(report, title, f"right is: {scorer.meaning} ({scorer.name})")
    if arguments.plot:
        from auto_bot_tuner.evaluation.answer_charts import draw_accuracy

        draw_accuracy(report, arguments.plot, title)
        print(f"picture: {arguments.plot}")
    shares = {**report.by_task, "all": report.overall, "ended by itself": report.ended}
    return {
        "scorer": scorer.name,
        "right_is": scorer.meaning,
        "accuracy": report.overall.value,
        "ended": report.ended.value,
        "by_task": {name: record(share) for name, share in shares.items()},
        "pass_at": {str(k): record(share) for k, share in report.pass_at.items()},
    }


def show_answers(report: AccuracyReport, count: int) -> None:
    """Some right and some wrong answers, from all over the data."""
    for wanted in (True, False):
        places = [i for i, is_right in enumerate(report.correct) if is_right == wanted]
        for place in spread(len(places), count):
            i = places[place]
            print_exchange(report.prompts[i], report.responses[i].text, "(right)" if wanted else "(wrong)")


def print_report(report: AccuracyReport, title: str, right_is: str) -> None:
    answers = f", {report.samples} answers each: the share of them that is right" if report.samples > 1 else ""
    by_task = report.by_task if len(report.by_task) > 1 else {}
    overall = {f"mean@{report.samples}" if report.samples > 1 else "all": report.overall}
    passed = {f"pass@{k}: one of {k} is right": share for k, share in report.pass_at.items() if k > 1}
    rows: list[list[str] | None] = [*share_rows(by_task), *([None] if by_task else []), *share_rows(overall)]
    rows += [*share_rows(passed), None, *share_rows({"ended by itself": report.ended})]
    columns(f"{title}{answers}\n{right_is}", ["task", "right", "questions", "95 %"], rows)


def record(share: Share) -> dict[str, Any]:
    return {"share": share.value, "correct": share.k, "prompts": share.n, "interval_95": list(share.interval)}
