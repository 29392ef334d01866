"""final/: the trained model as others will use it, with a card that says where it comes from."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.training.progress import number
from auto_bot_tuner.utils.saving import base_is_on_hub, is_adapted, save_for_users

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

LIBRARIES = ("torch", "transformers", "peft", "datasets", "accelerate")


def save_final(trainer: Trainer, folder: Path, metrics: dict[str, float], model: Any = None, usage: str = "") -> None:
    """Write `folder` whole or not at all: a Hugging Face folder that transformers and peft load as it is.

    Args:
        model: the transformers or peft model, where `trainer.model` is none but holds one.
        usage: Markdown for the card: what a user of the model has to know.

    Raises:
        UserError: it could not be written; a `final/` that stood there before stands there still.
    """

    def write_card(aside: Path) -> None:
        (aside / "README.md").write_text(model_card(trainer, metrics, is_adapter_alone, usage), encoding="utf-8")

    model = trainer.model if model is None else model
    is_adapter_alone = is_adapted(model) and base_is_on_hub(model)  # else it is merged
    save_for_users(model, trainer.tokenizer, folder, write_card)


def model_card(trainer: Trainer, metrics: dict[str, float], is_adapter_alone: bool, usage: str) -> str:
    """README.md: lineage, data, use, evaluation, settings, versions; the front matter is the hub's."""
    base, config = causal_model(trainer.model).config._name_or_path or "a model without a name", trainer.config
    method = type(config).__name__.removesuffix("Config")
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    data = getattr(trainer.train_dataset, "summary", None) or f"{len(trainer.train_dataset)} rows"
    evaluation = "".join(
        f"| {name} | {number(value)} |\n" for name, value in metrics.items() if name.startswith("eval_")
    )
    return f"""---
base_model: {base}
library_name: {"peft" if is_adapter_alone else "transformers"}
tags: [{method.lower()}, auto_bot_tuner]
---
# {base} after {method}

Trained from `{base}` by {method} with auto_bot_tuner: {trainer.state.step} steps, {trainer.state.tokens} tokens.

```
{data}
```

| evaluation | value |
|---|---|
{evaluation or "| none | |" + chr(10)}
{usage}## Settings
```json
{json.dumps(settings, indent=1, default=str)}
```
Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}.
"""
