"""The whole pipeline on the bundled world, stage by stage, each measured on the same held-out prompts.

A stage makes a model out of those before it; a later chapter adds its own to `STAGES`. Nothing here is special to the
demo: every stage calls what its own verb calls, and says with which line you can repeat it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UserError
from commands.json_file import check_writable, write_json
from commands.training import say

if TYPE_CHECKING:
    from rich.table import Table

    from auto_bot_tuner.evaluation.accuracy import AccuracyReport

QUICK_PROMPTS = 100
SAMPLES = 5
MAX_NEW_TOKENS = 64  # longer than any answer of this world


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """The whole pipeline on the bundled tiny model: no network, no account, no GPU."""

    # Fewer rows and prompts: a look in under a minute, not a result.
    quick: bool = False
    # Write the table to this file as JSON.
    json: str = ""
    # Folder of the runs; those of an earlier demo in it are overwritten.
    output_dir: str = "checkpoints/demo"


class Stage(NamedTuple):
    """A step of the pipeline."""

    name: str
    make: Callable[[Arguments], str]  # trains where there is something to train; the name or folder of its model
    look: str  # at what to look in its line of the table
    read: str  # the file that explains it


@plain_dataclass(frozen=True)
class Result:
    """What a stage came to."""

    name: str
    seconds: float  # of making it
    report: AccuracyReport

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "accuracy": self.report.overall.value,
            "ended": self.report.ended.value,
            "seconds": round(self.seconds, 1),
            "prompts": self.report.overall.n,
            "tasks": {task: share.value for task, share in self.report.by_task.items()},
        }


def base(arguments: Arguments) -> str:
    """Nothing to do: the base model is bundled, pre-trained on text of its world."""
    return "tiny"


def sft(arguments: Arguments) -> str:
    """`python main.py train-sft --model tiny --preset standard`, into the demo's folder."""
    from auto_bot_tuner.utils.run_config import load_run_config
    from commands import CONFIGS, train_sft

    folder = str(Path(arguments.output_dir) / "sft")
    preset = CONFIGS / f"sft_tiny_{'quick' if arguments.quick else 'standard'}.yaml"
    train_sft.train(load_run_config(preset, {"training": {"output_dir": folder, "overwrite": True}}))
    return str(Path(folder) / "final")


STAGES = (
    Stage(
        "base",
        base,
        "it knows its world, yet asked like this it only goes on writing text: nobody has shown it what an answer is.",
        "src/auto_bot_tuner/assets/text.py",
    ),
    Stage(
        "sft",
        sft,
        "accuracy jumps and answers end by themselves; what is still wrong, the base model never knew.",
        "src/auto_bot_tuner/sft/loss.py",
    ),
)


def run(arguments: Arguments) -> None:
    """Make and measure each stage, then print the table, the tasks and some answers.

    Raises:
        UserError: a stage fails.
        UsageError: the JSON file cannot be written.
    """
    rows = held_out_rows(arguments.quick)
    results: list[Result] = []
    check_writable(arguments.json)
    for number, stage in enumerate(STAGES, start=1):
        say(f"\n── Stage {number} of {len(STAGES)}: {stage.name} ──")
        started = time.perf_counter()
        model = stage.make(arguments)
        seconds = time.perf_counter() - started
        results.append(Result(stage.name, seconds, measure(model, rows)))
        # Written after each stage: what is done is not lost when a later one fails.
        write_json(arguments.json, {"stages": [result.as_json() for result in results]})
    show(results, rows)


def held_out_rows(quick: bool) -> list[dict[str, Any]]:
    """The test split's rows, or some of them: no question in it was trained on, in any wording."""
    from auto_bot_tuner.assets import bundled_dataset

    path = bundled_dataset("tiny-instructions", "test")
    if path is None:
        raise UserError(
            "the bundled data set tiny-instructions is missing: make it with python -m auto_bot_tuner.assets.make_world"
        )
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows[:: len(rows) // QUICK_PROMPTS] if quick else rows  # every task keeps its share


def measure(name: str, rows: list[dict[str, Any]]) -> AccuracyReport:
    """Ask a model every held-out question, greedily, and let the gold scorer check the answers."""
    from auto_bot_tuner.assets.gold import is_correct
    from auto_bot_tuner.evaluation import GenerationConfig
    from auto_bot_tuner.evaluation.accuracy import evaluate_accuracy
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    model, tokenizer, _ = load_model_and_tokenizer(name)
    return evaluate_accuracy(model, tokenizer, rows, is_correct, GenerationConfig(max_new_tokens=MAX_NEW_TOKENS))


def show(results: list[Result], rows: list[dict[str, Any]]) -> None:
    """The table of stages, the table of tasks, and the same questions answered by each stage."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(stage_table(results), task_table(results), sep="\n")
    for result, stage in zip(results, STAGES, strict=True):
        console.print(Text(f"{result.name}: {stage.look} Read {stage.read}"))
    for i in some_of_each_kind(rows):
        console.print(Text("\n" + " ".join(results[0].report.prompts[i].split()), style="bold"))
        for result in results:
            answer, mark = result.report.responses[i], "✓" if result.report.correct[i] else "✗"
            text = " ".join(answer.text.split()) + ("" if answer.ended else " …")
            console.print(
                Text(f"  {result.name:5} {mark} {text}", style="green" if mark == "✓" else ""),
                no_wrap=True,
                overflow="ellipsis",
            )


def some_of_each_kind(rows: list[dict[str, Any]]) -> list[int]:
    """The first row of every few tasks, so that the samples differ in kind."""
    first = {row["task"]: i for i, row in reversed(list(enumerate(rows)))}
    tasks = sorted(first)
    return [first[task] for task in tasks[:: max(1, len(tasks) // SAMPLES)]]


def stage_table(results: list[Result]) -> Table:
    from rich.table import Table

    prompts = results[0].report.overall.n
    table = Table("stage", title=f"{prompts} held-out prompts, greedy answers")
    for column in ("accuracy", "95 % interval", "ended", "seconds"):
        table.add_column(column, justify="right")
    for result in results:
        low, high = result.report.overall.interval
        accuracy, ended = result.report.overall.value, result.report.ended.value
        table.add_row(
            result.name, f"{accuracy:.1%}", f"{low:.0%} – {high:.0%}", f"{ended:.1%}", f"{result.seconds:.0f}"
        )
    return table


def task_table(results: list[Result]) -> Table:
    from rich.table import Table

    table = Table("task", title="accuracy by task")
    table.add_column("prompts", justify="right")
    for result in results:
        table.add_column(result.name, justify="right")
    for task, share in results[0].report.by_task.items():
        table.add_row(task, str(share.n), *(f"{result.report.by_task[task].value:.0%}" for result in results))
    return table
