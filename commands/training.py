"""What the recipes of the train verbs share: their rows, what is said before and after a run, the dry run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.training.events import Callback, Event
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.run_config import RunConfig, save_run_config
from auto_bot_tuner.utils.terminal import neutral
from commands import CONFIGS
from commands.closing import closing_words, next_steps
from commands.layers import RunArguments, preset_path

if TYPE_CHECKING:
    from auto_bot_tuner.data.rows import Rows
    from auto_bot_tuner.training.loop import Trainer


FEW_STEPS = 10  # below it a run is a trial of the command, not of the model


class Material(NamedTuple):
    """What a method makes of rows, for complaints about settings that it does not read."""

    title: str
    rows: str
    trained: str


PREFERENCES = "preferences", "answers to one prompt are compared"
PROMPTS = "prompts", "the policy's own answers are trained"
MATERIAL = {
    "reward": Material("reward models", *PREFERENCES),
    "dpo": Material("DPO", *PREFERENCES),
    "ppo": Material("PPO", *PROMPTS),
    "grpo": Material("GRPO", *PROMPTS),
}


def run_recipe(train: Callable[[RunConfig, bool], None], arguments: RunArguments) -> None:
    """`run` of a train verb: train, or with `--dry-run` show what would be trained."""
    # Which file lies below the flags: a preset goes by the model's name, so say what was found.
    path = preset_path(arguments.method, arguments.model.name, arguments.preset)
    if path is not None:
        say(f"preset           {path.relative_to(CONFIGS.parent)}")
    train(arguments, arguments.dry_run)
    say_what_is_next(arguments)


def say_what_is_next(arguments: RunArguments) -> None:
    """After a command (not after a stage of the demo, which goes on by itself): what one could do now."""
    final = Path(arguments.training.output_dir) / "final"
    if not arguments.dry_run:
        say("\n".join(next_steps(final)))


def rows_of(config: RunConfig, dry_run: bool) -> tuple[Rows, Rows | None]:
    """The beginning of every recipe: rows to train and to evaluate on (None: no evaluation).

    What can be known without a model is found here, in a second: settings that the method does not read, a folder that
    holds a run already, `--resume` without a checkpoint, wrong data.

    Raises:
        UserError: one of these; the message says how to mend it.
    """
    from auto_bot_tuner.data.sources import load_rows  # the imports that take seconds wait for the first real work
    from auto_bot_tuner.training.run_folder import check_run_folder
    from auto_bot_tuner.utils.model_source import refuse_mistyped

    refuse_unread(config.dataset, config.method)
    if not dry_run:
        check_run_folder(config.training)
    refuse_mistyped(config.model.name)
    train, evaluation = load_rows(config.dataset)
    if config.dataset.mix:
        say("mix      " + " + ".join(f"{count:,} rows of {name}" for name, count in train.shares().items()))
    return train, evaluation


def refuse_unread(dataset: DatasetConfig, method: str) -> None:
    """A setting that this method does not read would be ignored in silence: say so instead.

    Raises:
        UsageError: such a setting is given.
    """
    material = MATERIAL.get(method)
    if material and dataset.format_type != "auto":
        raise UsageError(
            f"format_type {dataset.format_type} is for SFT: for {material.title} rows are {material.rows}, which are "
            "recognised by themselves (auto)"
        )
    if material and dataset.train_on_prompt:
        raise UsageError(f"train_on_prompt is for SFT: for {material.title} {material.trained}, so leave it out")
    if dataset.max_prompt_length and (material is None or material.rows != "preferences"):
        instead = f"max_length is the longest prompt of {material.title}" if material else "max_length cuts SFT's rows"
        raise UsageError(f"max_prompt_length is for preferences (dpo, reward): leave it out, {instead}")


def carry_out(
    trainer: Trainer, dry_run: bool, use: str, shown: Sequence[str] = ("loss",), understood: str = ""
) -> None:
    """The end of every recipe: say what was understood, train, say what came of it. A dry run says the first.

    `use`: what the trained model is for, with {} where its folder stands. `shown`: the evaluation's figures to repeat.
    `understood`: what is to be said of the data; empty: its rows with what is trained of them.
    """
    from auto_bot_tuner.data.viewer import describe

    say(understood or describe(trainer.train_dataset))
    say(describe_run(trainer))
    if trainer.total_steps < FEW_STEPS:
        steps = "1 step teaches" if trainer.total_steps == 1 else f"{trainer.total_steps} steps teach"
        say(f"few steps        {steps} little: raise --epochs or lower --grad-accum until there are some dozen")
    if dry_run:
        say(describe_dry_run(trainer))
    else:
        say(closing_words(trainer.train(), use, shown))


def describe_dry_run(trainer: Trainer) -> str:
    """Memory by part, time, and whether it fits: measured, without a step."""
    from auto_bot_tuner.estimation.dry_run import dry_run
    from auto_bot_tuner.estimation.words import in_lines

    return in_lines(dry_run(trainer), str(trainer.accelerator.device))


def say(text: str) -> None:
    """Print once, not once per process of a distributed run."""
    if os.environ.get("RANK", "0") == "0":
        print(neutral(text), flush=True)


def describe_run(trainer: Trainer) -> str:
    """The numbers that follow from the settings: what a dry run is for."""
    from auto_bot_tuner.training.record import settings_of_run

    return "\n".join(f"{name:16} {value}" for name, value in settings_of_run(trainer))


def config_writer(config: RunConfig) -> Callback:
    """A callback that writes the resolved config into the run's folder as soon as there is one."""

    def write(event: Event) -> None:
        if event.name == "start":
            # The file says how the run was made, ready to make it again; not what was done about an earlier one.
            training = dataclasses.replace(
                config.training, learning_rate=event.trainer.peak_learning_rate, overwrite=False, resume=False
            )
            resolved = RunConfig(method=config.method, model=config.model, dataset=config.dataset, training=training)
            save_run_config(Path(training.output_dir) / "config.yaml", resolved)

    return write
