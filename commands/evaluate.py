"""Measure a model: `evaluate perplexity | generation | accuracy`. A table for people, `--json FILE` for programs.

The hub and the model are touched only after the rows have been read and understood: wrong data is found in a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.terminal import neutral
from commands.json_file import check_writable, write_json

# Where rows that were not trained on are looked for, in this order.
HELD_OUT_SPLITS = ("test", "validation", "valid", "dev", "train")


@dataclass(config=STRICT, kw_only=True)
class ModelArguments:
    """What every measurement needs."""

    # Hub id, local folder, run folder, LoRA checkpoint folder, or a bundled name such as tiny.
    model: str
    # File with a Jinja chat template, or the word builtin. Empty: the model's own, else the built-in one.
    chat_template: str = ""
    # Where to compute: auto, cpu, cuda or mps.
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # Type of the weights.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    # Let the model's repository run its own Python code on this machine.
    trust_remote_code: bool = False
    # Write the numbers to this file as JSON.
    json_file: Annotated[str, tyro.conf.arg(name="json", metavar="FILE")] = ""


@dataclass(config=STRICT, kw_only=True)
class RowArguments(ModelArguments):
    """Measurements over a data set."""

    # Hub name, local .jsonl/.json/.csv/.parquet, a folder saved by `datasets`, or a bundled name.
    dataset: str
    # Configuration (subset) of a hub data set, where it has several.
    subset: str = ""
    # Split to measure on, e.g. test or train[:100]. Empty: test, else validation, else train.
    split: str = ""
    # Use at most this many rows, drawn by a seeded lot. 0: all.
    max_samples: NonNegativeInt = 500


@dataclass(config=STRICT, kw_only=True)
class PerplexityArguments(RowArguments):
    """How surprised is the model? By all of a raw text (text column or .txt file); by the answers of conversations."""

    # Tokens seen at once, 2 or more. 0: the model's context. Longer texts are read through a sliding window.
    window: NonNegativeInt = 0


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


Arguments = (
    Annotated[PerplexityArguments, tyro.conf.subcommand("perplexity")]
    | Annotated[GenerationArguments, tyro.conf.subcommand("generation")]
    | Annotated[AccuracyArguments, tyro.conf.subcommand("accuracy")]
)


def run(arguments: ModelArguments) -> None:
    """Measure and print.

    Raises:
        UserError: the data or the model is at fault; the message says how to mend it.
        UsageError: the flags contradict each other, or the JSON file cannot be written.
    """
    check_writable(arguments.json_file)
    measures: dict[type, Callable[[Any], dict[str, Any]]] = {
        PerplexityArguments: perplexity,
        GenerationArguments: generation,
        AccuracyArguments: accuracy,
    }
    numbers = measures[type(arguments)](arguments)
    write_json(arguments.json_file, {"model": arguments.model, "arguments": asdict(arguments), **numbers})


def perplexity(arguments: PerplexityArguments) -> dict[str, Any]:
    if arguments.window == 1:
        raise UsageError("--window 1 leaves no token another before it: use 2 or more, or 0 for the model's context")
    is_file_of_text = Path(arguments.dataset).suffix.lower() == ".txt"
    rows = [{"text": read_text(Path(arguments.dataset))}] if is_file_of_text else understood(load(arguments))
    model, tokenizer = load_model(arguments)

    from auto_bot_tuner.evaluation.perplexity import compute_perplexity, compute_perplexity_on_dataset

    if all("text" in row for row in rows):
        what = "text, every token"
        metrics = compute_perplexity(model, tokenizer, [row["text"] for row in rows], arguments.window)
    else:
        from auto_bot_tuner.sft.dataset import InstructionDataset

        what = "answers only, in the model's chat template"
        dataset = InstructionDataset(rows, tokenizer, max_length=sys.maxsize, format_type="auto")
        metrics = compute_perplexity_on_dataset(model, dataset, arguments.window)
    table(f"Perplexity of {arguments.model} on {arguments.dataset} ({len(rows)} rows; {what})", metrics)
    return {"rows": len(rows), "metrics": metrics}


def generation(arguments: GenerationArguments) -> dict[str, Any]:
    if bool(arguments.dataset) == bool(arguments.prompt):
        raise UsageError("say what to answer: either --dataset NAME or --prompt TEXT")
    prompts: Sequence[Any] = arguments.prompt or to_answer(load(arguments))
    model, tokenizer = load_model(arguments)

    from auto_bot_tuner.evaluation.quality import evaluate_generation_quality

    report = evaluate_generation_quality(model, tokenizer, prompts, arguments.generation)
    for prompt, response in zip(report.prompts, report.responses, strict=True):
        print_exchange(prompt, response.text, "" if response.ended else "(cut off)")
    table(f"Generations of {arguments.model} ({len(prompts)} prompts)", report.metrics)
    samples = [
        {"prompt": prompt, "response": response.text, "ended": response.ended}
        for prompt, response in zip(report.prompts, report.responses, strict=True)
    ]
    return {"metrics": report.metrics, "samples": samples}


def accuracy(arguments: AccuracyArguments) -> dict[str, Any]:
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
    table(
        f"Accuracy of {arguments.model} on {arguments.dataset}",
        {
            name: f"{share.value:6.1%}  {share.k}/{share.n}  [{share.interval[0]:.1%}, {share.interval[1]:.1%}]"
            for name, share in shares.items()
        },
    )
    return {"accuracy": report.overall.value, "ended": report.ended.value, "by_task": numbers}


def load(arguments: RowArguments) -> Any:
    """The rows to measure on."""
    from auto_bot_tuner.data.sources import load_split, load_splits, sampled

    split = arguments.split
    if not split:
        there = load_splits(arguments.dataset, arguments.subset)
        split = next((name for name in HELD_OUT_SPLITS if name in there), next(iter(there)))
    return sampled(load_split(arguments.dataset, split, arguments.subset), arguments.max_samples)


def understood(rows: Any) -> list[dict[str, Any]]:
    """The rows that can be measured, as text or messages; one that is neither is an error with its place."""
    from auto_bot_tuner.data.formats import canonical, drop_reason

    found = [canonical(rows[i], "auto", rows.where(i))[1] for i in range(len(rows))]
    reasons = [drop_reason(row) for row in found]
    if all(reasons):
        raise UserError(f"no row can be measured ({rows.where(0)}: {reasons[0]}): give rows with text or an answer")
    return [row for row, reason in zip(found, reasons, strict=True) if reason is None]


def to_answer(rows: Any) -> list[Any]:
    """The conversation of each row up to what the model is to say."""
    from auto_bot_tuner.evaluation.reference import question

    return [question(rows[i], rows.where(i)) for i in range(len(rows))]


def check_answers(rows: Any) -> None:
    from auto_bot_tuner.evaluation.reference import question_and_answer

    for i in range(len(rows)):
        question_and_answer(rows[i], rows.where(i))


def load_model(arguments: ModelArguments) -> tuple[Any, Any]:
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    model, tokenizer, _ = load_model_and_tokenizer(
        arguments.model,
        arguments.device,
        dtype=arguments.dtype,
        chat_template=arguments.chat_template,
        trust_remote_code=arguments.trust_remote_code,
        frozen=True,
    )
    return model, tokenizer


def read_text(path: Path) -> str:
    try:
        text = path.expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    if not text.strip():
        raise UserError(f"{path} holds no text")
    return text


def table(title: str, values: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    print(title)
    grid = Table(show_header=False)
    grid.add_column()
    grid.add_column(justify="right")
    for name, value in values.items():
        grid.add_row(name, f"{value:,.4f}" if isinstance(value, float) else str(value))
    Console().print(grid)


def print_exchange(prompt: str, response: str, remark: str) -> None:
    print(f"> {neutral(prompt)}\n{neutral(response).strip()} {remark}\n")
