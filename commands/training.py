"""What the train verbs share: the layers below their flags, what is said before and after a run, the dry run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, DatasetConfig
from auto_bot_tuner.training.events import Callback, Event
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.run_config import RunConfig, load_run_config, save_run_config
from auto_bot_tuner.utils.strict_yaml import read_yaml
from commands import CONFIGS

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

GENERAL_FAMILY = "gpt2"  # its presets serve every model that has none of its own


@dataclass(config=STRICT, kw_only=True)
class RunArguments(RunConfig):
    """A run, and two flags that concern only the command."""

    # Start from a shipped file, configs/METHOD_MODEL_PRESET.yaml: quick (a look) or standard (a real run). Flags win
    # over it.
    preset: Annotated[str, tyro.conf.arg(metavar="quick|standard")] = ""
    # Show the data, the derived numbers and the trainable weights, then stop.
    dry_run: bool = False


Arguments = TypeVar("Arguments", bound=RunArguments)


def flags_before(argv: Sequence[str], *names: str, positional: bool = False) -> argparse.Namespace:
    """A first look at a few flags that decide which file lies below all the others; tyro reads them again later."""
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        look.add_argument(f"--{name}", default="")
    try:
        found, others = look.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    if positional:
        found.path = config_file(others)
    return found


def config_file(words: Sequence[str]) -> str:
    """The config file among words that may be flags and their values; empty where there is none.

    >>> config_file(["--learning-rate", "1e-4", "mine.yaml", "--seed", "7"])
    'mine.yaml'
    """
    plain = [i for i, word in enumerate(words) if not word.startswith("-")]
    by_name = [words[i] for i in plain if words[i].lower().endswith((".yaml", ".yml"))]
    # Without the usual suffix: a word that cannot be a flag's value, else the first (`--dry-run FILE`).
    by_place = [words[i] for i in plain if i == 0 or i - 1 in plain or "=" in words[i - 1]]
    return next(iter([*by_name, *by_place, *(words[i] for i in plain)]), "")


def under_flags(dataset: DatasetConfig, argv: Sequence[str]) -> DatasetConfig:
    """The layers' `dataset` for flags that replace what it names: `--mix` its name, `--dataset` its mix."""
    flags = {word.partition("=")[0] for word in argv}
    if "--mix" in flags and "--dataset" not in flags:
        return dataclasses.replace(dataset, name="")
    if "--dataset" in flags and "--mix" not in flags:
        return dataclasses.replace(dataset, mix={})
    return dataset


def preset_path(method: str, model: str, preset: str) -> Path | None:
    """The preset's file for this model's family (`tiny`), else the general one; None where no preset is asked for.

    The family is the model's name, or that of the model which its run started from, as the run's config.yaml says.

    Raises:
        UsageError: this method has no such preset.
    """
    if not preset:
        return None
    for candidate in (Path(origin(model)).name.lower(), GENERAL_FAMILY):
        path = CONFIGS / f"{method}_{candidate}_{preset}.yaml"
        if path.exists():
            return path
    names = sorted({path.stem.split("_")[-1] for path in CONFIGS.glob(f"{method}_*_*.yaml")})
    raise UsageError(f"no preset {preset!r} for {method}: there are {', '.join(names)} (files configs/{method}_*.yaml)")


def origin(model: str) -> str:
    """The model at the beginning: of checkpoints/dpo/final, which was trained from checkpoints/sft/final, say tiny."""
    seen: set[str] = set()
    while model and model not in seen:
        seen.add(model)
        file = next(
            (file for file in (Path(model) / "config.yaml", Path(model).parent / "config.yaml") if file.is_file()), None
        )
        if file is None:
            break
        with contextlib.suppress(UsageError, KeyError, TypeError):  # no run of ours: then the name is all there is
            model = str(read_yaml(file)["model"]["name"])
    return model


def say_preset(arguments: RunArguments) -> None:
    """Which file lies below the flags, where one does: a preset goes by the model's name, so say what was found."""
    path = preset_path(arguments.method, arguments.model.name, arguments.preset)
    if path is not None:
        say(f"preset           {path.relative_to(CONFIGS.parent)}")


def preset_layers(arguments_class: type[Arguments], argv: Sequence[str]) -> Arguments | None:
    """The `Arguments` of a train verb that `--preset` in these flags describes, or None without one."""
    method = next(field.default for field in dataclasses.fields(arguments_class) if field.name == "method")
    look = flags_before(argv, "preset", "model")
    path = preset_path(str(method), look.model, look.preset)
    if path is None:
        return None
    below = load_run_config(None, preset=path, method=str(method))
    return arguments_class(
        method=below.method, model=below.model, dataset=under_flags(below.dataset, argv), training=below.training
    )


def refuse_sft_settings(dataset: DatasetConfig, method: str) -> None:
    """Preference rows are recognised by themselves, and their prompts are never trained: say so, do not ignore it.

    Raises:
        UsageError: a setting is given that this method does not read.
    """
    if dataset.format_type != "auto":
        raise UsageError(
            f"format_type {dataset.format_type} is for SFT: for {method} rows are preferences, which are "
            "recognised by themselves (auto)"
        )
    if dataset.train_on_prompt:
        raise UsageError(
            f"train_on_prompt is for SFT: for {method} answers to one prompt are compared, so leave it out"
        )


def refuse_preference_settings(dataset: DatasetConfig) -> None:
    """SFT has no prompts apart from its rows: a limit for them would be ignored, so it is refused.

    Raises:
        UsageError: max_prompt_length is given.
    """
    if dataset.max_prompt_length:
        raise UsageError("max_prompt_length is for preferences (dpo, reward): leave it out, max_length cuts SFT's rows")


def carry_out(trainer: Trainer, dry_run: bool, use: str, shown: Sequence[str] = ("loss",)) -> None:
    """The end of every recipe: say what was understood, train, say what came of it. A dry run says the first.

    `use`: what the trained model is for, with {} where its folder stands. `shown`: the evaluation's figures to repeat.
    """
    from auto_bot_tuner.data.viewer import describe

    say(describe(trainer.train_dataset))
    say(describe_run(trainer))
    if not dry_run:
        say(closing_words(trainer.train(), use, shown))


def say(text: str) -> None:
    """Print once, not once per process of a distributed run."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def describe_run(trainer: Trainer) -> str:
    """The numbers that follow from the settings: what a dry run is for."""
    from auto_bot_tuner.training.optim import num_warmup_steps

    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    warmup_steps = num_warmup_steps(trainer.total_steps, trainer.config.warmup)
    tokens_per_step = sum(trainer.lengths) / max(len(trainer.lengths), 1) * trainer.rows_per_step
    precision = {"no": "fp32"}.get(trainer.accelerator.mixed_precision, trainer.accelerator.mixed_precision)
    batch, accumulation = trainer.config.batch_size, trainer.config.gradient_accumulation_steps
    rows = f"{trainer.rows_per_step} rows (batch {batch} x accumulation {accumulation} x processes {trainer.processes})"
    return "\n".join(
        [
            f"trained weights  {trainable:,} of {total:,} ({trainable / total:.2%})",
            f"one step         {rows}, about {tokens_per_step:,.0f} tokens",
            f"steps            {trainer.total_steps:,} ({trainer.steps_per_epoch:,} per epoch), warm-up {warmup_steps}",
            f"learning rate    {trainer.peak_learning_rate:g} at its peak, then {trainer.config.lr_schedule}",
            f"device           {trainer.accelerator.device}, {precision} arithmetic",
            *(f"{name:16} {value}" for name, value in trainer.facts().items()),
            f"output           {trainer.config.output_dir}",
        ]
    )


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


def closing_words(summary: dict[str, Any], use: str, shown: Sequence[str]) -> str:
    """What a run came to, and what to do with it."""
    figures = "".join(
        f", evaluation {name} {summary[f'eval_{name}']:.4f}" for name in shown if f"eval_{name}" in summary
    )
    return (
        f"Trained {summary['steps']:,} steps, {summary['tokens']:,} tokens in {summary['seconds']:.0f} s "
        f"({summary['tokens_per_second']:,.0f} tokens/s){figures}.\n"
        f"The model is in {summary['final']}; {use.format(summary['final'])}"
    )
