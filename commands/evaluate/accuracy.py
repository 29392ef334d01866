"""`evaluate accuracy`: how many answers are right?"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.training.config import STRICT
from commands.evaluate.arguments import RowArguments
from commands.evaluate.inputs import check_answers, load, load_model
from commands.evaluate.printing import print_exchange, table


@dataclass(config=STRICT, kw_only=True)
class AccuracyArguments(RowArguments):
    """How many answers are right? tiny-instructions: by its scorer. Other data: equal to the reference but for
    case, spaces and punctuation at the ends."""

    # Data set with questions and reference answers.
    dataset: str = "tiny-instructions"
    # Print this many answers of each kind, right and wrong.
    show: NonNegativeInt = 3
    # How the answers are written.
    generation: GenerationConfig = field(default_factory=GenerationConfig)


def measure(arguments: AccuracyArguments) -> dict[str, Any]:
    """Let the model answer, check and print; the shares for `--json`."""
    from auto_bot_tuner.assets import BUNDLED_DATASETS

    rows = load(arguments)
    check_answers(rows)  # a row without a question and an answer is found before the model is loaded
    model, tokenizer = load_model(arguments)

    from auto_bot_tuner.assets.gold import is_correct
    from auto_bot_tuner.evaluation.accuracy import evaluate_accuracy

    scorer = is_correct if arguments.dataset in BUNDLED_DATASETS else None
    report = evaluate_accuracy(model, tokenizer, rows, scorer, arguments.generation)
    for wanted in (True, False):
        shown = [i for i, is_right in enumerate(report.correct) if is_right == wanted][: arguments.show]
        for i in shown:
            print_exchange(report.prompts[i], report.responses[i].text, "(right)" if wanted else "(wrong)")
    shares = {**report.by_task, "all": report.overall, "ended by itself": report.ended}
    numbers = {
        name: {"share": share.value, "correct": share.k, "prompts": share.n, "interval_95": list(share.interval)}
        for name, share in shares.items()
    }
    table(f"Accuracy of {arguments.model} on {arguments.dataset}", shares)
    return {"accuracy": report.overall.value, "ended": report.ended.value, "by_task": numbers}
