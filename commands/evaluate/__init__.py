"""Measure a model: `evaluate perplexity | generation | accuracy | compare | reward | winrate | benchmark`. A table
for people, `--json FILE` for programs, `--plot FILE` where a picture says more.

The hub and the model are touched only after the rows have been read and understood: wrong data is found in a second.
Each module here is a measurement: the class of its flags, and `measure`, which prints and returns the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import tyro

from commands.evaluate import accuracy, benchmark, compare, generation, perplexity, reward, winrate
from commands.evaluate.accuracy import AccuracyArguments
from commands.evaluate.arguments import ModelArguments
from commands.evaluate.benchmark import BenchmarkArguments
from commands.evaluate.compare import CompareArguments
from commands.evaluate.generation import GenerationArguments
from commands.evaluate.perplexity import PerplexityArguments
from commands.evaluate.reward import RewardArguments
from commands.evaluate.winrate import WinrateArguments
from commands.json_file import check_writable, write_json

Arguments = (
    Annotated[PerplexityArguments, tyro.conf.subcommand("perplexity")]
    | Annotated[GenerationArguments, tyro.conf.subcommand("generation")]
    | Annotated[AccuracyArguments, tyro.conf.subcommand("accuracy")]
    | Annotated[CompareArguments, tyro.conf.subcommand("compare")]
    | Annotated[RewardArguments, tyro.conf.subcommand("reward")]
    | Annotated[WinrateArguments, tyro.conf.subcommand("winrate")]
    | Annotated[BenchmarkArguments, tyro.conf.subcommand("benchmark")]
)

MEASURES: dict[type, Callable[[Any], dict[str, Any]]] = {
    PerplexityArguments: perplexity.measure,
    GenerationArguments: generation.measure,
    AccuracyArguments: accuracy.measure,
    CompareArguments: compare.measure,
    RewardArguments: reward.measure,
    WinrateArguments: winrate.measure,
    BenchmarkArguments: benchmark.measure,
}


def run(arguments: ModelArguments) -> None:
    """Measure and print.

    Raises:
        UserError: the data or the model is at fault; the message says how to mend it.
        UsageError: the flags contradict each other, or the JSON file cannot be written.
    """
    check_writable(arguments.json_file)
    numbers = MEASURES[type(arguments)](arguments)
    write_json(arguments.json_file, {"model": arguments.model, "arguments": asdict(arguments), **numbers})
