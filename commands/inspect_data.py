"""`inspect`: the rows, or what a policy answers to them, token by token as the trainer gets them."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, DatasetConfig, ModelConfig
from auto_bot_tuner.utils.errors import UsageError
from commands.inspect_preferences import show_preferences
from commands.inspect_rollouts import RolloutSettings, check_rollouts, show_rollouts
from commands.inspection import Inspection, token_losses
from commands.training import refuse_unread

if TYPE_CHECKING:
    from auto_bot_tuner.sft.dataset import InstructionDataset


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """Look at the data as the trainer gets it: trained, prompt, end token and cuts, token by token."""

    # The method whose data is shown: rows of sft; pairs of reward and dpo, with a report on their biases; responses of
    # the model with their rewards and advantages for ppo and grpo.
    method: Literal["sft", "reward", "dpo", "ppo", "grpo"] = "sft"
    # Whose tokenizer and chat template; for ppo and grpo the policy. Hub id, local folder, checkpoint, or a bundled
    # name such as tiny.
    model: str = ModelConfig.name
    # File with a Jinja chat template, or the word builtin. Empty: the model's own, else the built-in one.
    chat_template: str = ""
    # Let the model's repository run its own Python code on this machine.
    trust_remote_code: bool = False
    # The rows.
    dataset: Annotated[DatasetConfig, tyro.conf.arg(name="")] = field(default_factory=DatasetConfig)
    # How many rows (pairs, prompts) are shown. 0: the summary alone. Empty: 3, for ppo and grpo 1.
    rows: NonNegativeInt | None = None
    # Show the model's loss on every trained token, in nats: what it already knows, and what surprises it.
    loss: bool = False
    # Rewards and responses.
    rollouts: Annotated[RolloutSettings, tyro.conf.arg(name="")] = field(default_factory=RolloutSettings)


def run(arguments: Arguments) -> None:
    """Print the rows, then what became of all of them. The weights are loaded only where they are needed.

    Raises:
        UserError: wrong settings or data, or a model that cannot be had.
    """
    from auto_bot_tuner.data.sources import load_rows

    writes = arguments.method in ("ppo", "grpo")
    refuse_unread(arguments.dataset, arguments.method)
    check_rollouts(arguments.rollouts, arguments.method)
    if writes and arguments.loss:
        raise UsageError(f"--loss is for trained tokens of data; --method {arguments.method} shows log p of each token")
    train_rows, eval_rows = load_rows(arguments.dataset)  # wrong data is found before anything heavy is imported

    from rich.console import Console

    from auto_bot_tuner.data.viewer import legend
    from auto_bot_tuner.utils.model_loading import load_from_config, load_tokenizer
    from auto_bot_tuner.utils.model_source import find_base, find_model

    config = ModelConfig(
        name=arguments.model,
        use_lora=False,
        chat_template=arguments.chat_template,
        trust_remote_code=arguments.trust_remote_code,
    )
    model = None
    if arguments.loss or writes:
        model, tokenizer, _ = load_from_config(config)
    else:
        source = find_model(config.name, config.trust_remote_code)
        needs_base = source.is_adapter and not source.has_tokenizer
        tokenizer = load_tokenizer(find_base(source, config.trust_remote_code) if needs_base else source, config)
    console = Console(highlight=False, markup=False, emoji=False)
    rows = (1 if writes else 3) if arguments.rows is None else arguments.rows
    inspection = Inspection(train_rows, eval_rows, tokenizer, arguments.dataset, console, rows, model)
    if writes:
        show_rollouts(inspection, arguments.rollouts, arguments.method, config)
        return
    console.print(legend(), soft_wrap=True)
    show = show_instructions if arguments.method == "sft" else show_preferences
    show(inspection)


def show_instructions(inspection: Inspection) -> None:
    """Print the first rows, then the summary of all. With a model, its loss on every trained token."""
    from auto_bot_tuner.data.viewer import token_view
    from auto_bot_tuner.sft.dataset import InstructionDataset

    settings, model, console = inspection.settings, inspection.model, inspection.console
    dataset = InstructionDataset(
        inspection.train_rows,
        inspection.tokenizer,
        max_length=settings.max_length,
        format_type=settings.format_type,
        system_prompt=settings.system_prompt,
        train_on_prompt=settings.train_on_prompt,
    )
    for index in range(min(inspection.rows, len(dataset))):
        losses = token_losses(model, dataset[index]["input_ids"]) if model is not None else None
        console.rule(f"row {index}")
        console.print(heading(dataset, index, losses), style="bold", soft_wrap=True)
        console.print(token_view(dataset, index, losses, boundaries=True), soft_wrap=True)
    console.rule("all rows")
    console.print(str(dataset.summary), soft_wrap=True)
    if inspection.eval_rows is not None:
        console.print(f"held out {len(inspection.eval_rows):,} more rows for evaluation", soft_wrap=True)


def heading(dataset: InstructionDataset, index: int, losses: list[float] | None) -> str:
    """Where a row comes from, its length, its trained tokens and their mean loss."""
    trained = dataset.trained_tokens[index]
    words = f"{dataset.where(index)}: {dataset.lengths[index]} tokens, {trained} trained"
    if losses is None:
        return words
    labels = dataset[index]["labels"].tolist()
    mean = sum(loss for loss, label in zip(losses, labels, strict=True) if label >= 0) / trained
    return f"{words}, mean loss {mean:.3f} nats"
