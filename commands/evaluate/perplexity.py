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
from commands.evaluate.printing import table


@dataclass(config=STRICT, kw_only=True)
class PerplexityArguments(RowArguments):
    """How surprised is the model? By all of a raw text (text column or .txt file); by the answers of conversations."""

    # Tokens seen at once, 2 or more. 0: the model's context. Longer texts are read through a sliding window.
    window: NonNegativeInt = 0


def measure(arguments: PerplexityArguments) -> dict[str, Any]:
    """Measure and print; the numbers for `--json`."""
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
