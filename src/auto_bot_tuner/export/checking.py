"""Is what lies on the disk the model that was exported? Loaded back as a user would, and compared number by number.

Two differences, which are easily confused:

fault  |logits(read back) − logits(the model with its weights rounded)|: must be 0 but for the order of sums
cost   |logits(the model with its weights rounded) − logits(the model)|: what 16 bits or q8_0 take away
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from auto_bot_tuner.utils.errors import UserError

# float32 arithmetic in another order of sums.
TOLERANCE = 1e-4
# Texts in which tokenizers differ: contractions, digits, white space, scripts, marks, code, control tokens' letters.
TEXTS = (
    "Hello, world!",
    "I'll say it's DON'T-worry'D, we've 1 12 123 1234 apples (and 3.14 pears)…",
    "  two  spaces\tand\ttabs \n\n\nnew lines\r\n end  ",
    "Größe, naïve café, Привет мир, こんにちは世界, 안녕하세요, مرحبا, ১২৩ ½ ²",
    "e\u0301 A\u030a 🙂👍🏽 👩‍👩‍👧 \u200b\u00a0.",
    "def f(x):\n    return x**2  # squared\nif (a!=b) { c+=1; } </s> <b>",
    "### Instruction:\nAdd 91 and 59.\n\n### Response:\n",
)


def probe_ids(rows: int, length: int = 32) -> torch.Tensor:
    """(1, T): tokens from all over a vocabulary of so many rows."""
    return (torch.arange(length) * 7919 % rows)[None]


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    """Logits (1, T, V) for the probe tokens; of a reward model its score (1, 1)."""
    length = min(32, int(getattr(model.config, "max_position_embeddings", None) or 32))
    input_ids = probe_ids(model.get_input_embeddings().weight.shape[0], length)
    logits: torch.Tensor = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits.float()
    return logits


def largest_difference(these: torch.Tensor, those: torch.Tensor) -> float:
    """max |these − those|; infinite where the shapes differ or a number is none."""
    if these.shape != those.shape:
        return float("inf")
    difference = float((these - those).abs().max())
    return difference if difference == difference else float("inf")


def cost_of_rounding(dtype: str, rounded: Any, exact: torch.Tensor) -> float:
    """By how much the weights' type moves the logits of the model whose weights are rounded now.

    Raises:
        UserError: a weight is beyond what it can hold.
    """
    if not all(parameter.isfinite().all() for parameter in rounded.parameters()):
        raise UserError(f"{dtype} cannot hold this model (float16 ends at 65,504): use --dtype bfloat16 or float32")
    return largest_difference(logits_of(rounded), exact)


def fault_of(read_back: Any, model: Any) -> float:
    """max |difference| of logits, after every weight has proved the same; infinite where one is another.

    Logits alone would not see a wrong row of the embedding whose token is not among the probes; weights alone would
    not see a wrong setting.
    """
    these, those = read_back.state_dict(), model.state_dict()
    if these.keys() != those.keys() or not all(torch.equal(these[name].float(), those[name]) for name in those):
        return float("inf")
    return largest_difference(logits_of(read_back), logits_of(model))


def check_equal(where: str, fault: float) -> None:
    """Raises `UserError` where a model that was read back is another than the one that was written."""
    if fault > TOLERANCE:
        raise UserError(
            f"{where} was written, but reads back as another model, so it was deleted: export --format safetensors "
            "instead, and please report the architecture"
        )


def different_texts(tokenizer: Any, other: Any, texts: Iterable[str] = TEXTS) -> list[str]:
    """The texts that two tokenizers cut otherwise, special tokens left out."""
    return [
        text
        for text in texts
        if tokenizer(text, add_special_tokens=False)["input_ids"] != other(text, add_special_tokens=False)["input_ids"]
    ]
