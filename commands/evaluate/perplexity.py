"""`evaluate perplexity`: how surprised is the model?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from commands.evaluate.arguments import RowArguments
from commands.evaluate.inputs import load, load_model, read_text, understood
from commands.evaluate.printing import check_picture, table


@dataclass(config=STRICT, kw_only=True)
class PerplexityArguments(RowArguments):
    """How surprised is the model? By all of a raw text (text column or .txt file); by the answers of conversations."""

    # Tokens seen at once, 2 or more. 0: the model's context. Longer texts are read through a sliding window.
    window: NonNegativeInt = 0
    # Draw the loss by place in the text, and the spread over the rows, into this file: .png, .svg or .pdf.
    plot: str = ""


def measure(arguments: PerplexityArguments) -> dict[str, Any]:
    """Measure and print; the numbers for `--json`."""
    check_picture(arguments.plot)
    if arguments.window == 1:
        raise UsageError("--window 1 leaves no token another before it: use 2 or more, or 0 for the model's context")
    is_file_of_text = Path(arguments.dataset).suffix.lower() == ".txt"
    rows = [{"text": read_text(Path(arguments.dataset))}] if is_file_of_text else understood(load(arguments))
    model, tokenizer = load_model(arguments)

    from auto_bot_tuner.evaluation.perplexity import (
        dataset_items,
        perplexity_of,
        score_tokens,
        text_items,
        window_of,
    )

    texts = [row["text"] for row in rows] if all("text" in row for row in rows) else []
    if texts:
        what, items = "text, every token", text_items(tokenizer, texts)
    else:
        from auto_bot_tuner.sft.dataset import InstructionDataset

        what = "answers only, in the model's chat template"
        items = dataset_items(InstructionDataset(rows, tokenizer, max_length=sys.maxsize, format_type="auto"))
    scored = score_tokens(model, items, arguments.window)
    metrics, width = perplexity_of(scored, texts), window_of(model, arguments.window)
    longer = sum(len(item["input_ids"]) > width for item in items)
    title = f"Perplexity of {arguments.model} on {arguments.dataset} ({len(rows):,} rows; {what})"
    table(title, metrics)
    if longer:
        print(f"{longer:,} of {len(items):,} rows are longer than the window of {width:,} tokens: it slides over them")
    if arguments.plot:
        from auto_bot_tuner.evaluation.answer_charts import draw_losses

        draw_losses(scored, arguments.plot, title)
        print(f"picture: {arguments.plot}")
    return {"rows": len(rows), "window": width, "rows_longer_than_window": longer, "metrics": metrics}
