"""What follows from a machine's facts: which models can be trained on it, and which libraries are too old.

Memory by the rule of thumb that every practitioner knows. AdamW in float32 keeps four numbers per trained weight: the
weight, its gradient, and two running averages (16 bytes). LoRA trains one weight in a hundred, so what counts is the
frozen base: 4 bytes a weight in float32, 2 in bfloat16, and in four bits (QLoRA) about 0.6 with the scales of its
blocks. Activations come on top and depend on the batch: a fifth of the memory is left to them. What a run really takes,
`train-sft … --dry-run` measures.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TRAINED = 4 + 4 + 8  # bytes per trained weight: itself, its gradient, Adam's two averages
SHARE_TRAINED = 0.01  # of the weights that LoRA's matrices come to, at rank 16
ACTIVATIONS = 0.2  # of the memory
DISTRIBUTION = "auto_bot_tuner"
PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


@dataclass(frozen=True)
class Way:
    """A way to fine-tune, and the bytes that it takes per weight of the model."""

    name: str
    flags: str
    bytes_per_weight: float
    needs_gpu: bool = False


WAYS = (
    Way("full", "--no-lora", TRAINED),
    Way("LoRA", "(default)", 4 + SHARE_TRAINED * TRAINED),
    Way("LoRA, bf16 base", "--dtype bfloat16", 2 + SHARE_TRAINED * TRAINED),
    Way("QLoRA", "--load-in-4bit", 0.6 + SHARE_TRAINED * TRAINED, needs_gpu=True),
)
# Sizes that people meet, with a model of each.
SIZES = (
    ("gpt2", 0.124e9),
    ("Qwen2.5-0.5B", 0.494e9),
    ("Llama-3.2-1B", 1.24e9),
    ("Llama-3.2-3B", 3.21e9),
    ("Qwen2.5-7B", 7.62e9),
    ("Qwen2.5-14B", 14.8e9),
    ("Qwen2.5-32B", 32.8e9),
    ("Llama-3.1-70B", 70.6e9),
)


def largest(way: Way, memory_bytes: int) -> float:
    """The most weights that a model may have to be trained this way in so much memory."""
    return memory_bytes * (1 - ACTIVATIONS) / way.bytes_per_weight


@dataclass(frozen=True)
class Library:
    """An installed library against what this project asks for."""

    name: str
    version: str  # empty: not installed
    wanted: str  # ">=2.6"
    extra: str = ""  # the optional part of the project that brings it

    @property
    def is_missing(self) -> bool:
        return not self.version

    @property
    def is_too_old(self) -> bool:
        from packaging.specifiers import SpecifierSet

        return bool(self.version) and not SpecifierSet(self.wanted).contains(self.version, prereleases=True)


def libraries(requirements: Iterable[tuple[str, str]] | None = None) -> list[Library]:
    """The libraries that the project asks for, those of its extras too (without the developers' and the docs').

    Args:
        requirements: (extra or empty, requirement) as pyproject.toml writes them; None: this project's.
    """
    from packaging.requirements import Requirement

    found = []
    for extra, line in this_project_s() if requirements is None else requirements:
        requirement = Requirement(line)
        if extra not in ("dev", "docs"):
            found.append(Library(requirement.name, installed(requirement.name), str(requirement.specifier), extra))
    return found


def this_project_s() -> list[tuple[str, str]]:
    """From pyproject.toml, which in a checkout is newer than what was written down at the last installation."""
    import tomllib

    try:
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"].items()
        return [("", line) for line in project["dependencies"]] + [(e, line) for e, lines in extras for line in lines]
    except (OSError, ValueError, KeyError):
        pass
    try:
        written = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    parts = [line.partition("; extra == ") for line in written]
    return [(extra.strip("\"' "), line) for line, _, extra in parts]


def installed(name: str) -> str:
    """The version of a distribution; empty where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
