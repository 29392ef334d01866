"""Which of the shipped configs makes a folder: many of them start from what another one trains."""

from __future__ import annotations

import os
from pathlib import Path

from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.strict_yaml import read_yaml

CONFIGS = Path(__file__).parents[3] / "configs"
QUICK, STANDARD = "_quick", "_standard"


def made_by(name: str, configs: Path = CONFIGS) -> str:
    """The command that makes the model folder `name`, and the quick one of the same kind where there is one; empty
    where no shipped config writes there."""
    wanted = expanded(name).absolute()
    outputs = {path: Path(output) for path in sorted(configs.glob("*.yaml")) if (output := output_of(path))}
    makers = [path for path, output in outputs.items() if wanted in places(output)]
    if not makers:
        return ""
    maker = min(makers, key=lambda path: not path.stem.endswith(STANDARD))
    command = f"python main.py train-config {shown(maker)}"
    quick = maker.with_stem(maker.stem.removesuffix(STANDARD) + QUICK)
    if maker.stem.endswith(STANDARD) and quick in outputs:
        return f"{command} (or, for a look, {shown(quick)}, which makes {outputs[quick] / 'final'})"
    return command


def places(output: Path) -> tuple[Path, Path]:
    """The names that the model of a run goes by: its folder and the final/ in it, absolute."""
    folder = Path(os.path.abspath(output))
    return folder, folder / "final"


def output_of(config: Path) -> str:
    """Its output_dir; empty where it says none, or cannot be read."""
    try:
        training = read_yaml(config).get("training")
    except (UserError, OSError):
        return ""
    return str(training.get("output_dir", "")) if isinstance(training, dict) else ""


def shown(config: Path) -> str:
    return str(config.relative_to(Path.cwd())) if config.is_relative_to(Path.cwd()) else str(config)
