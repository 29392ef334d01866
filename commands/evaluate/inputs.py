"""What a measurement reads: rows, then the model. Wrong rows are found in a second, before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.paths import expanded
from commands.evaluate.arguments import ModelArguments, RowArguments

# Where rows that were not trained on are looked for, in this order.
HELD_OUT_SPLITS = ("test", "validation", "valid", "dev", "train")


def load(arguments: RowArguments) -> Any:
    """The rows to measure on."""
    from auto_bot_tuner.data.sources import load_split, sampled

    return sampled(load_split(arguments.dataset, split_of(arguments), arguments.subset), arguments.max_samples)


def split_of(arguments: RowArguments) -> str:
    """The split that is measured: the one that was asked for, else the best one for it that the data has."""
    from auto_bot_tuner.data.sources import load_splits

    if arguments.split:
        return arguments.split
    there = load_splits(arguments.dataset, arguments.subset)
    return next((name for name in HELD_OUT_SPLITS if name in there), next(iter(there)))


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


def load_model(arguments: ModelArguments, name: str = "") -> tuple[Any, Any]:
    """(model, tokenizer) of `--model`, or of another `name` with the same settings."""
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    model, tokenizer, _ = load_model_and_tokenizer(
        name or arguments.model,
        arguments.device,
        dtype=arguments.dtype,
        chat_template=arguments.chat_template,
        trust_remote_code=arguments.trust_remote_code,
        frozen=True,
    )
    return model, tokenizer


def read_text(path: Path) -> str:
    try:
        text = expanded(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    if not text.strip():
        raise UserError(f"{path} holds no text")
    return text
