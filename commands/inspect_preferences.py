"""`inspect --method dpo|reward`: pairs side by side, token by token, and what else than the preference they teach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from auto_bot_tuner.data.response_groups import ResponseGroups
    from auto_bot_tuner.data.rows import Rows
    from auto_bot_tuner.training.config import DatasetConfig

SIDE_BY_SIDE = 100  # columns of the terminal; in a narrower one the sides stand below each other


def show_preferences(
    train_rows: Rows,
    eval_rows: Rows | None,
    tokenizer: Any,
    settings: DatasetConfig,
    console: Console,
    rows: int,
    model: Any = None,
) -> None:
    """Print the first `rows` pairs, then the report on all. With a `model`, its loss on every trained token."""
    from auto_bot_tuner.data.preference_report import preference_report

    dataset = as_groups(train_rows, tokenizer, settings)
    for index in range(min(rows, len(dataset))):
        console.rule(f"{'answer' if dataset.kind == 'unpaired' else 'pair'} {index}")
        print_group(dataset, index, console, model)
    console.rule("all rows")
    console.print(str(dataset.summary), soft_wrap=True)
    held_out = as_groups(eval_rows, tokenizer, settings) if eval_rows is not None else None
    if dataset.kind == "pairs":
        console.print(str(preference_report(dataset, held_out)), soft_wrap=True)
    elif held_out is not None:
        console.print(f"held out {len(held_out):,} more for evaluation", soft_wrap=True)


def as_groups(rows: Rows, tokenizer: Any, settings: DatasetConfig) -> ResponseGroups:
    """Pairs, or single good and bad answers where the data has only such."""
    from auto_bot_tuner.data.preferences import recognise_preference
    from auto_bot_tuner.dpo import PreferenceDataset

    first = rows[0]
    return PreferenceDataset(
        rows,
        tokenizer,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
        unpaired=isinstance(first, dict) and recognise_preference(first) == "unpaired",
        system_prompt=settings.system_prompt,
    )


def print_group(dataset: ResponseGroups, index: int, console: Console, model: Any = None) -> None:
    """One group: where it comes from, its prompt once, then its sides."""
    from rich.table import Table

    from auto_bot_tuner.data.viewer import group_view, side_names

    group, names = dataset.group(index), side_names(dataset, index)
    losses = None
    if model is not None:
        from commands.inspect_data import token_losses

        losses = [token_losses(model, ids) for ids in group.input_ids]
    own = [len(ids) - group.prompt_length for ids in group.input_ids]
    counts = ", ".join(f"{name} {count}" for name, count in zip(names, own, strict=True))
    category = dataset.category(index)
    words = (
        f"{dataset.where(index)}: prompt {group.prompt_length} tokens, {counts}{f' ({category})' if category else ''}"
    )
    console.print(words, style="bold", soft_wrap=True)
    prompt, sides = group_view(dataset, index, losses, boundaries=True)
    console.print(prompt, soft_wrap=True, end="")
    headings = names
    if losses is not None:
        headings = [
            f"{name}, {sum(loss for loss, label in zip(side, labels.tolist(), strict=True) if label >= 0):.2f} nats"
            for name, side, labels in zip(names, losses, group.labels, strict=True)
        ]
    if len(sides) == 2 and console.width >= SIDE_BY_SIDE:
        table = Table(*headings, box=None, expand=True, padding=(0, 2, 0, 0), header_style="bold")
        for column in table.columns:
            column.ratio, column.overflow = 1, "fold"
        table.add_row(*sides)
        console.print(table)
        return
    for heading, view in zip(headings, sides, strict=True):
        console.print(f"{heading}:", style="bold", soft_wrap=True)
        console.print(view, soft_wrap=True)
