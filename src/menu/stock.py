"""What is here, and lists to choose from: models, data sets, rewards, with the suitable ones first."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auto_bot_tuner.assets import BUNDLED_MODELS
from auto_bot_tuner.hub.cache import Cached
from auto_bot_tuner.utils.data_inventory import DataFound, data_sets, in_cache
from auto_bot_tuner.utils.inventory import RunFound, run_of_model, runs
from auto_bot_tuner.utils.sizes import readable_size
from src.menu.screen import Option, choose, table, type_in

ROOTS = ("checkpoints", "runs")  # where runs are looked for
NAMES = {"sft": "SFT", "reward": "reward model", "dpo": "DPO", "ppo": "PPO", "grpo": "GRPO"}
ANOTHER = "\0another"

# What a role wants of a model: methods of trained ones, best first; base models stand where "base" does.
ROLES = {
    "sft": ("base", "sft", "dpo", "ppo", "grpo"),
    "reward": ("sft", "dpo", "base", "ppo", "grpo"),
    "dpo": ("sft", "base", "dpo", "grpo", "ppo"),
    "ppo": ("sft", "dpo", "grpo", "ppo", "base"),
    "grpo": ("sft", "dpo", "ppo", "grpo", "base"),
    "judge": ("reward",),
    "chat": ("ppo", "grpo", "dpo", "sft", "base"),
    "any": ("ppo", "grpo", "dpo", "sft", "base", "reward"),
}
# Which rows a role wants, best first.
ROWS = {
    "sft": ("answers", "text"),
    "reward": ("preferences",),
    "dpo": ("preferences",),
    "ppo": ("prompts",),
    "grpo": ("prompts",),
    "perplexity": ("text", "answers"),
    "questions": ("answers", "prompts", "preferences"),
}
# The bundled set that was made for a role.
MADE_FOR = {
    "sft": "tiny-instructions",
    "reward": "tiny-preferences",
    "dpo": "tiny-preferences",
    "ppo": "tiny-prompts",
    "grpo": "tiny-puzzles",
    "perplexity": "tiny-text",
    "questions": "tiny-instructions",
}


@dataclass(frozen=True)
class Stock:
    """What is here now."""

    runs: tuple[RunFound, ...]  # newest first
    downloaded: tuple[Cached, ...]
    data: tuple[DataFound, ...]

    @property
    def finished(self) -> list[RunFound]:
        return [run for run in self.runs if run.status == "finished" and run.final.is_dir()]

    @property
    def resumable(self) -> list[RunFound]:
        return [run for run in self.runs if run.is_resumable]

    @property
    def running(self) -> list[RunFound]:
        return [run for run in self.runs if run.status == "running"]

    def of(self, *methods: str) -> list[RunFound]:
        return [run for run in self.finished if run.method in methods]


def look_around(root: Path | None = None) -> Stock:
    """Look into the folders below `root` (here)."""
    root = root or Path()
    found = [run for place in ROOTS for run in runs(root / place)]
    found.sort(key=lambda run: -run.changed)
    return Stock(tuple(found), tuple(in_cache("model")), tuple(data_sets(root)))


def short(folder: Path | str) -> str:
    """A run's folder without the place where all of them lie.

    >>> short("checkpoints/demo/sft")
    'demo/sft'
    """
    path = Path(folder)
    return str(Path(*path.parts[1:])) if path.parts[:1] == ("checkpoints",) and len(path.parts) > 1 else str(path)


def told(run: RunFound) -> str:
    """A run in some words: `SFT from tiny, loss 0.08`."""
    start = run_of_model(run.model)
    origin = short(start) if start else run.model
    steps = f"step {run.step:,}" + (f" of {run.total:,}" if run.total else "")
    state = {"finished": "", "interrupted": f"interrupted at {steps}", "running": f"running now, {steps}"}
    method = NAMES.get(run.method, run.method) or "a run"
    parts = [f"{method} from {origin}" if origin else method, state.get(run.status, "ended without a model")]
    return ", ".join(part for part in (*parts, run.figure) if part)


def models(stock: Stock, role: str) -> list[tuple[str, str]]:
    """(name, words) of the models that serve a role, best first; of one kind the newest first."""
    found: list[tuple[str, str]] = []
    for kind in ROLES[role]:
        found += base_models(stock) if kind == "base" else ((str(run.final), told(run)) for run in stock.of(kind))
    return found


def base_models(stock: Stock) -> Iterator[tuple[str, str]]:
    for name, about in BUNDLED_MODELS.items():
        yield name, f"bundled: {about}"
    for model in stock.downloaded:
        yield model.name, f"downloaded, {readable_size(model.size_bytes)}"


def data(stock: Stock, role: str) -> list[tuple[str, str]]:
    """(name, words) of the data sets for a role: what suits it, then what may, then the rest."""
    wanted = ROWS.get(role, ())

    def place(entry: DataFound) -> tuple[int, bool]:
        fits = [wanted.index(kind) for kind in entry.kinds[:1] if kind in wanted]
        fits += [len(wanted) for kind in entry.kinds[1:] if kind in wanted]
        rank = min(fits, default=len(wanted) + (2 if entry.kinds else 1))
        return rank, entry.name != MADE_FOR.get(role)

    ordered = sorted(stock.data, key=place)
    return [(entry.name, f"{entry.origin}: {entry.about}") for entry in ordered]


def pick(question: str, found: Sequence[tuple[str, str]], value: str, what: str, is_answer: bool = False) -> str:
    """One of `found`, the value so far, or another that is typed.

    `is_answer`: the value was chosen before, and the list begins there. A default that is not here comes last: it has
    to be downloaded; one that names a folder of a run which was never made is left out.
    """
    named = dict(found)
    if value and value not in named:
        if is_answer or Path(value).exists():
            named = {value: "as chosen" if is_answer else "the default", **named}
        elif not found or value.count("/") < 2:
            named[value] = "the default: downloaded first, if it is not here"
    lines = table([(shown_name(name), about) for name, about in named.items()])
    options = [Option(line, name, about) for line, (name, about) in zip(lines, named.items(), strict=True)]
    options.append(Option(f"another: type {what}", ANOTHER, "Tab completes paths."))
    at = value if value in named and (is_answer or value in dict(found)) else None
    chosen: Any = choose(question, options, at)
    while chosen == ANOTHER:
        typed = type_in(f"{what}:", is_path=True)
        if typed:
            return os.path.expanduser(typed) if typed.startswith("~") else typed
    return str(chosen)


def shown_name(name: str) -> str:
    """A trained model by its run."""
    run = name.removesuffix("/adapter")
    return short(Path(run).parent) if run.endswith("/final") else name or "(the preset's)"
