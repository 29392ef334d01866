"""`inspect`: the rows token by token as the trainer gets them, and what became of all of them."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, DatasetConfig, ModelConfig

if TYPE_CHECKING:
    from auto_bot_tuner.sft.dataset import InstructionDataset


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """Look at the data as the model will see it: trained, prompt, end token and cuts, token by token."""

    # The method whose dataset is shown.
    method: Literal["sft"] = "sft"
    model: Annotated[ModelConfig, tyro.conf.arg(name="")] = field(default_factory=ModelConfig)
    dataset: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(default_factory=DatasetConfig)
    # How many rows are shown. 0: the summary alone.
    rows: NonNegativeInt = 3
    # Show the loss of the model on every trained token, in nats.
    loss: bool = False


def run(arguments: Arguments) -> None:
    """Print the rows, then the summary. The model's weights are loaded only where its losses are asked for."""
    from auto_bot_tuner.data.sources import load_rows

    train_rows, _ = load_rows(arguments.dataset)

    from rich.console import Console

    from auto_bot_tuner.data.viewer import legend, token_view
    from auto_bot_tuner.sft.dataset import InstructionDataset
    from auto_bot_tuner.utils.model_loading import load_from_config, load_tokenizer
    from auto_bot_tuner.utils.model_source import find_base, find_model

    model, device = None, "cpu"
    if arguments.loss:
        model, tokenizer, device = load_from_config(arguments.model)
    else:
        source = find_model(arguments.model.name, arguments.model.trust_remote_code)
        source = source if source.has_tokenizer else find_base(source)
        tokenizer = load_tokenizer(source, arguments.model)
    config = arguments.dataset
    dataset = InstructionDataset(
        train_rows,
        tokenizer,
        max_length=config.max_length,
        format_type=config.format_type,
        system_prompt=config.system_prompt,
        train_on_prompt=config.train_on_prompt,
    )
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(legend())
    for index in range(min(arguments.rows, len(dataset))):
        losses = token_losses(model, dataset, index, device) if model is not None else None
        console.rule(f"row {index}: {dataset.where(index)}, {heading(dataset, index, losses)}")
        console.print(token_view(dataset, index, losses), soft_wrap=True)
    console.rule("all rows")
    console.print(str(dataset.summary))


def heading(dataset: InstructionDataset, index: int, losses: list[float] | None) -> str:
    """Length, trained tokens and their mean loss."""
    trained = dataset.trained_tokens[index]
    words = f"{dataset.lengths[index]} tokens, {trained} trained"
    if losses is None:
        return words
    labels = dataset[index]["labels"].tolist()
    mean = sum(loss for loss, label in zip(losses, labels, strict=True) if label >= 0) / max(trained, 1)
    return f"{words}, mean loss {mean:.3f} nats"


def token_losses(model: object, dataset: InstructionDataset, index: int, device: str) -> list[float]:
    """-log p(token | the tokens before it) of each token of a row, in nats; 0 for the first, which nothing predicts."""
    import torch
    from torch.nn import functional as F

    ids = dataset[index]["input_ids"].to(device)  # (T,)
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0].float()  # type: ignore[operator]  # (T, V)
    # Position t predicts token t + 1 (rule 1).
    return [0.0, *F.cross_entropy(logits[:-1], ids[1:], reduction="none").tolist()]
