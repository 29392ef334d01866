"""The settings of a run beside their defaults and meanings, and how the settings of several runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from auto_bot_tuner.reports.run_files import SECTIONS, Row, RunFiles
from auto_bot_tuner.utils.errors import UsageError

ABOUT_THE_FOLDER = ("output_dir", "overwrite", "resume", "report_to")


class SettingRow(NamedTuple):
    name: str
    value: str
    default: str
    comment: str
    is_changed: bool


class Difference(NamedTuple):
    """A setting that is not the same in all runs, and its value in each; empty where a run has no such setting."""

    name: str
    values: list[str]


def settings_of(run: RunFiles) -> list[tuple[str, list[SettingRow]]]:
    """Each section of config.yaml with its rows, in the order of the file."""
    return [(name, rows) for name in SECTIONS if (rows := section_rows(run, name))]


def section_rows(run: RunFiles, section: str) -> list[SettingRow]:
    known = known_settings(run.method, section)
    rows = []
    for name, value in run.section(section).items():
        default, comment = known.get(name, (None, ""))
        is_changed = name in known and name not in ABOUT_THE_FOLDER and written(value) != written(default)
        rows.append(SettingRow(f"{section}.{name}", written(value), written(default), comment, is_changed))
    return rows


def known_settings(method: str, section: str) -> dict[str, tuple[Any, str]]:
    """Setting → default and comment, by the classes of today; a run of another day may have others."""
    from auto_bot_tuner.training.config import DatasetConfig, ModelConfig
    from auto_bot_tuner.utils import settings
    from auto_bot_tuner.utils.run_config import training_class

    try:
        home = {"model": ModelConfig, "dataset": DatasetConfig}.get(section) or training_class(method)
    except UsageError:
        return {}
    return {setting.name: (setting.default, setting.comment) for setting in settings.settings_of(home)}


def written(value: Any) -> str:
    """As config.yaml would say it, in one line.

    >>> written(True), written(()), written(["tensorboard"]), written(2e-5), written(None), written({"a": 0.5})
    ('yes', '–', 'tensorboard', '2e-05', '–', 'a: 0.5')
    """
    if value is None or (isinstance(value, (str, list, tuple, dict)) and not value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {written(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(written(inner) for inner in value)
    return str(value)


def differing(runs: Sequence[RunFiles]) -> list[Difference]:
    """Settings that are not the same in all of these runs; the folders, which never are, left out."""
    flat = [flattened(run) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [Difference(name, [settings.get(name, "") for settings in flat]) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def flattened(run: RunFiles) -> dict[str, str]:
    flat: Row = {"method": run.method}
    for section in SECTIONS:
        flat |= {
            f"{section}.{name}": written(value)
            for name, value in run.section(section).items()
            if name not in ABOUT_THE_FOLDER
        }
    return flat
