"""From layers to one run: preset YAML, then the given YAML, then flags; the later one wins.

A file has the sections `method`, `model`, `dataset` and `training`: the dataclasses of `training/config.py`, with the
method's own class for `training`. They type every number (YAML 1.1 reads `5e-7` as a string), know every key and its
range; here their complaints become one line with the place and the cure. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, DatasetConfig, ModelConfig, TrainingConfig
from auto_bot_tuner.training.durable import write_whole
from auto_bot_tuner.utils.errors import UsageError, UserError, check_words
from auto_bot_tuner.utils.settings import Setting, in_one_line, nearest, settings_of
from auto_bot_tuner.utils.strict_yaml import read_yaml

# Each method's training section. A name here is what `method:` may say, and how the names of config files begin.
TRAINING_CLASSES = {
    "sft": "auto_bot_tuner.sft.config:SFTConfig",
    "reward": "auto_bot_tuner.rlhf.config:RewardModelConfig",
    "dpo": "auto_bot_tuner.dpo.config:DPOConfig",
    "ppo": "auto_bot_tuner.rlhf.config:PPOConfig",
    "grpo": "auto_bot_tuner.grpo.config:GRPOConfig",
}
PROSE = ("system_prompt", "sample_prompts")
SECTIONS = ("model", "dataset", "training")


@dataclass(config=STRICT, kw_only=True)
class RunConfig:
    """All that one training run is made of."""

    # What is trained by: sft, reward, dpo, ppo or grpo. Each method's command sets it.
    method: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
    # The model and its adapters.
    model: ModelConfig = field(default_factory=ModelConfig)
    # The rows, and how they become tokens.
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    # The optimisation, and what it leaves behind.
    training: TrainingConfig


def load_run_config(
    path: Path | None, overrides: Mapping[str, Any] | None = None, method: str = "", preset: Path | None = None
) -> RunConfig:
    """The run that these layers describe, checked: `preset`, then `path`, then `overrides` ({section: {key: value}}).

    `method` counts where the layers name none; without it the file's name does (`sft_gpt2_quick.yaml` → sft).

    Raises:
        UsageError: a file that is not a config, an unknown method or key, a value of the wrong type or range.
    """
    values: dict[str, Any] = {}
    for file in (preset, path):
        if file is not None:
            layer = read_yaml(file)
            _check_keys(layer, file, method)
            values = _merged(values, layer)
    values = _merged(values, overrides or {})
    source = path or preset
    return _checked(values, _method_of(values, source, method), source)


def training_class(method: str) -> type[TrainingConfig]:
    """The config class of a method's `training` section.

    Raises:
        UsageError: there is no such method.
    """
    if method not in TRAINING_CLASSES:
        near = nearest(method, TRAINING_CLASSES)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(TRAINING_CLASSES)}"
        raise UsageError(f"unknown method {method!r}: {hint}")
    module, name = TRAINING_CLASSES[method].split(":")
    found: type[TrainingConfig] = getattr(importlib.import_module(module), name)
    return found


def save_run_config(path: Path, config: RunConfig) -> None:
    """Write the resolved config; `load_run_config` of it gives an equal one.

    Raises:
        UserError: the file cannot be written.
    """
    values = {"method": config.method} | {name: dataclasses.asdict(getattr(config, name)) for name in SECTIONS}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) != yaml.safe_load(yaml.safe_dump(values)):
        # PyYAML writes some characters (U+0085) raw that it reads as a line's end: escape all, readable or not.
        text = yaml.safe_dump(values, sort_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)  # a half one would read as another run's
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` over `lower`, key by key inside sections; a data set's name replaces a mix below it, and a mix a name."""
    merged = dict(lower)
    below, above = merged.get("dataset"), upper.get("dataset")
    if isinstance(below, dict) and isinstance(above, Mapping):
        for given, replaced in (("name", "mix"), ("mix", "name")):
            if above.get(given) and replaced not in above:
                merged["dataset"] = below = {key: value for key, value in below.items() if key != replaced}
    for name, value in upper.items():
        inner = merged.get(name)
        merged[name] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


def _method_of(values: Mapping[str, Any], source: Path | None, given: str) -> str:
    """`method:` of the file, else the one given (`--type`), else the first word of the file's name."""
    named = values.get("method", "")
    if named and given and named != given:
        raise UsageError(f"{source} is a config for {named}, not for {given}: leave --type out, or use another file")
    if named or given:
        return str(named or given)
    first_word = source.stem.split("_")[0].split("-")[0] if source else ""
    if first_word not in TRAINING_CLASSES:
        raise UsageError(f"{source} names no method: write `method: sft` into it, or say --type sft")
    return first_word


def _section_class(section: str, method: str) -> type:
    return {"model": ModelConfig, "dataset": DatasetConfig}.get(section) or training_class(method)


def _check_keys(values: Mapping[str, Any], source: Path, given_method: str) -> None:
    """Every section and key must be known: a misspelt one that is ignored costs a training run."""
    for name, section in values.items():
        if name == "method":
            continue
        if name not in SECTIONS:
            raise UsageError(
                f"{source}: unknown section {name!r}{_suggestion(name, _method_of(values, source, given_method))}"
            )
        if not isinstance(section, dict):
            raise UsageError(f"{source}: {name} must be a section with keys below it, not {section!r}")
        method = _method_of(values, source, given_method)
        known = {setting.name: setting for setting in settings_of(_section_class(name, method))}
        for key, value in section.items():
            if key not in known:
                raise UsageError(f"{source}: unknown key {key!r} in {name}{_suggestion(key, method, name)}")
            if isinstance(value, bool) and not takes_bool(known[key]):
                # pydantic would read `yes` as the number 1.
                raise UsageError(
                    f"{source}: {name}.{key} should not be {str(value).lower()}; example: {known[key].default!r}"
                )


def takes_bool(setting: Setting) -> bool:
    """Whether true and false are values of it: `bool`, or `bool | None`."""
    return bool in (setting.annotation, *typing.get_args(setting.annotation))


def _suggestion(key: str, method: str, section: str = "") -> str:
    """Where the key belongs, or what was probably meant, in the section at hand first."""
    order = sorted(SECTIONS, key=lambda name: name != section)
    settings = [(name, setting) for name in order for setting in settings_of(_section_class(name, method))]
    for name, setting in settings:
        if key == setting.name:
            return f": it belongs under {name}"
    spellings = {
        setting.flag.strip("-").replace("-", "_"): f"{name}.{setting.name}" for name, setting in reversed(settings)
    }
    spellings["lr"] = "training.learning_rate"  # what everybody calls it; its letters are nearer to others
    spellings |= {setting.name: f"{name}.{setting.name}" for name, setting in reversed(settings)}
    near = nearest(key, spellings) or nearest(key, SECTIONS)
    if near:
        return f": did you mean {spellings.get(near, near)}?"
    places = ", ".join(setting.name for setting in settings_of(_section_class(section, method))) if section else ""
    return f": there are {places or ', '.join(('method', *SECTIONS))}"


def _checked(values: Mapping[str, Any], method: str, source: Path | None) -> RunConfig:
    sections = {}
    for name in SECTIONS:
        section_class = _section_class(name, method)
        try:
            sections[name] = section_class(**values.get(name, {}))
        except ValidationError as error:
            place = f"{source}: " if source else ""
            raise UsageError(f"{place}{name}.{in_one_line(error)}") from error
    place = f"{source}: " if source else ""
    for name, section in sections.items():
        try:
            check_words(names_in(section))
        except UsageError as error:
            raise UsageError(f"{place}{name}: {error}") from None
    return RunConfig(method=method, **sections)


def names_in(section: Any) -> list[str]:
    """The texts of a section that name something: files, models, columns. Prompts may hold what they like."""
    values = [value for key, value in vars(section).items() if key not in PROSE]
    inner = [one for value in values if isinstance(value, (tuple, dict)) for one in value]
    return [value for value in (*values, *inner) if isinstance(value, str)]
