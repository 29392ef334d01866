"""`evaluate generation`: what does the model write, and is it varied and finished?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import tyro
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from commands.evaluate.arguments import RowArguments
from commands.evaluate.inputs import load, load_model, to_answer
from commands.evaluate.printing import check_picture, print_exchange, table


@dataclass(config=STRICT, kw_only=True)
class GenerationArguments(RowArguments):
    """What does the model write, and is it varied and finished?"""

    # Data set whose prompts are answered. Not needed where --prompt gives them.
    dataset: str = ""
    # A prompt to answer, instead of a data set's; may be given several times.
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # Use at most this many rows, drawn by a seeded lot. 0: all.
    max_samples: NonNegativeInt = 20
    # How the answers are written.
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    # Draw how long the answers are, and how much of them is repetition, into this file: .png, .svg or .pdf.
    plot: str = ""


def measure(arguments: GenerationArguments) -> dict[str, Any]:
    """Generate, measure and print; the numbers and the answers for `--json`."""
    check_picture(arguments.plot)
    prompts = prompts_of(arguments)
    model, tokenizer = load_model(arguments)

    from auto_bot_tuner.evaluation.quality import evaluate_generation_quality

    report = evaluate_generation_quality(model, tokenizer, prompts, arguments.generation)
    for prompt, response in zip(report.prompts, report.responses, strict=True):
        print_exchange(prompt, response.text, "" if response.ended else "(cut off)")
    table(f"Generations of {arguments.model} ({len(prompts)} prompts)", report.metrics)
    if arguments.plot:
        from auto_bot_tuner.evaluation.answer_charts import draw_generations

        draw_generations({arguments.model: report.responses}, arguments.plot, f"{len(prompts)} answers")
        print(f"picture: {arguments.plot}")
    samples = [
        {"prompt": prompt, "response": response.text, "ended": response.ended}
        for prompt, response in zip(report.prompts, report.responses, strict=True)
    ]
    return {"metrics": report.metrics, "samples": samples}


def prompts_of(arguments: GenerationArguments) -> Sequence[Any]:
    """What is to be answered: the prompts of the command line, or those of the data set."""
    if bool(arguments.dataset) == bool(arguments.prompt):
        raise UsageError("say what to answer: either --dataset NAME or --prompt TEXT")
    return arguments.prompt or to_answer(load(arguments))
