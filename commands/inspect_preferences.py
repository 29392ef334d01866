"""`inspect --method dpo|reward`: pairs side by side, token by token, and what else than the preference they teach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from commands.inspection import Inspection, token_losses

if TYPE_CHECKING:
    from rich.console import Console

    from auto_bot_tuner.data.response_groups import ResponseGroups
    from auto_bot_tuner.data.rows import Rows

SIDE_BY_SIDE = 100  # columns of the terminal; in a narrower one the sides stand below each other


def show_preferences(inspection: Inspection) -> None:
    """Print the first pairs, then the report on all. With a model, its loss on every trained token."""
    from auto_bot_tuner.data.preference_report import preference_report

    console, eval_rows = inspection.console, inspection.eval_rows
    dataset = as_groups(inspection.train_rows, inspection)
    for index in range(min(inspection.rows, len(dataset))):
        console.rule(f"{'answer' if dataset.kind == 'unpaired' else 'pair'} {index}")
        print_group(dataset, index, console, inspection.model)
    console.rule("all rows")
    console.print(str(dataset.summary), soft_wrap=True)
    held_out = as_groups(eval_rows, inspection) if eval_rows is not None else None
    if dataset.kind == "pairs":
        console.print(str(preference_report(dataset, held_out)), soft_wrap=True)
    elif held_out is not None:
        console.print(f"held out {len(held_out):,} more for evaluation", soft_wrap=True)


def as_groups(rows: Rows, inspection: Inspection) -> ResponseGroups:
    """Pairs, or single good and bad answers where the data has only such."""
    from auto_bot_tuner.data.preferences import recognise_preference
    from auto_bot_tuner.dpo import PreferenceDataset

    first, settings = rows[0], inspection.settings
    return PreferenceDataset(
        rows,
        inspection.tokenizer,
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
