"""The flags that measurements share."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT


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
