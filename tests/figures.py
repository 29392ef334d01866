"""Where the figures of a text come from: each must be found in what its block names, at the precision of the text.

Free are counts up to ten, seeds, years, versions, arXiv ids, sections, headings, formulas between `$` and code in
backticks (what a reader types or finds in the code, where other tests look).
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.documents import Block, source_lines

# What is no figure: code, mathematics, links, citations, sections, years, versions, seeds.
NO_FIGURES = (
    r"<!--.*?-->",
    r"`[^`]*`",
    r"\$\$.*?\$\$",
    r"\$[^$]*\$",
    r"\]\([^)]*\)",
    r"https?://\S+",
    r"\b\d{4}\.\d{4,5}\b",
    r"§\s?\d+(?:\.\d+)*",
    r"\b(?:19|20)\d\d\b",
    r"\b(?:Python|TRL|PyTorch|torch|transformers|accelerate|CUDA|binding|gguf|DeepSpeed)\s(?:[≥>=]+\s?)?\d+(?:\.\d+)+\S*",
    r"\bseeds?\s\d+(?:(?:, | and )\d+)*",
    r"\|\s*seed \d+\s*(?:\|\s*\d+\s*)+\|",
    r"\b\d+[ -]bits?\b",
    r"\bn = \d+",
    r"\b95 %(?= (?:column|interval))",
)
NUMBER = re.compile(r"(?<![\w.,/^])(?<!\w[-−])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-−]?\d+)?(?![\w]|\.\d|,\d)")
SCALED = re.compile(r"(?<![\w.,/^])\d+(?:\.\d+)?(?=M\b|k\b)")
MEASURED = re.compile(r"\s?(%|s\b|ms\b|min\b|MiB|GiB|MB|GB|nats?\b|times\b|seconds|minutes)")
SCALES = {"M": 1e6, "k": 1e3, "million": 1e6}


@dataclass(frozen=True)
class Figure:
    """A number as it stands in a text."""

    text: str
    line: int
    scale: float = 1.0  # 1e6 behind an M
    unit: str = ""

    @property
    def value(self) -> float:
        return abs(float(self.text.replace(",", "").replace("−", "-")))

    @property
    def half(self) -> float:
        """Half a unit of the last digit that is given; of 26,700 the zeros are none, of 200 the last is."""
        mantissa, _, exponent = self.text.replace(",", "").replace("−", "-").lower().partition("e")
        digits = mantissa.lstrip("-")
        places = len(digits.partition(".")[2])
        zeros = 0 if places else min(len(digits) - len(digits.rstrip("0")), max(0, len(digits) - 2))
        return 0.5 * 10.0 ** (zeros - places + int(exponent or 0))

    @property
    def is_free(self) -> bool:
        return self.value <= 10 and self.value == int(self.value) and "." not in self.text and not self.unit

    def is_near(self, number: float) -> bool:
        slack = self.half * (1 + 1e-6) * self.scale
        candidates = (abs(number), 100 * abs(number)) if self.unit == "%" else (abs(number),)
        return any(abs(candidate - self.value * self.scale) <= slack for candidate in candidates)


def figures(text: str, first_line: int = 1) -> Iterator[Figure]:
    """The figures of a text, names and citations left out."""
    blank = re.compile("|".join(f"(?:{pattern})" for pattern in NO_FIGURES), re.DOTALL)
    text = blank.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for found in (*NUMBER.finditer(text), *SCALED.finditer(text)):
        behind = text[found.end() : found.end() + 12]
        scale = re.match(r"\s?(M|k|million)\b", behind)
        unit = MEASURED.match(behind)
        line = first_line + text[: found.start()].count("\n")
        yield Figure(found[0], line, SCALES[scale[1]] if scale else 1.0, unit[1] if unit else "")


@cache
def numbers_of(source: str) -> tuple[float, ...]:
    """All numbers in a file that a `from:` names."""
    text = "\n".join(source_lines(source)).replace("−", "-")
    return tuple(
        float(n.replace(",", "")) for n in re.findall(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)
    )


def without_source(block: Block) -> list[str]:
    """The figures of a block that none of its sources gives, each with its line; and sums that are wrong."""
    found = [number for source in block.noted("from") for number in numbers_of(source)]
    found += [figure.value for kind in ("cited", "advice") for part in block.noted(kind) for figure in loose(part)]
    complaints = []
    for claim in block.noted("is"):
        shown, _, formula = claim.partition("=")
        figure = next(figures(shown))
        value = worked_out(formula)
        if figure.is_near(value):
            found.append(value)
        else:
            complaints.append(f"{block}: {claim} is {value:g}")
    for figure in figures(block.text, block.line) if not block.noted("owed") else ():
        if not figure.is_free and not any(figure.is_near(number) for number in found):
            complaints.append(f"{block.document}:{figure.line}: {figure.text}{figure.unit} has no source")
    return complaints


def loose(part: str) -> Iterator[Figure]:
    return (figure for figure in figures(part))


# ---- figures that are worked out ----


@cache
def known() -> dict[str, Any]:
    """What a formula may name: mathematics, the defaults of the settings, and what is in the box."""
    from inspect import signature
    from statistics import NormalDist

    import torch

    from auto_bot_tuner.assets.gold import SCORE_RANGE
    from auto_bot_tuner.data import IGNORE_INDEX
    from auto_bot_tuner.data.sources import load_split
    from auto_bot_tuner.dpo import DPOConfig
    from auto_bot_tuner.evaluation import GenerationConfig
    from auto_bot_tuner.export.gguf_model import BLOCK
    from auto_bot_tuner.export.gguf_tokenizer import probes
    from auto_bot_tuner.grpo import GRPOConfig
    from auto_bot_tuner.grpo.loss import clip_range
    from auto_bot_tuner.rlhf import PPOConfig, RewardModelConfig
    from auto_bot_tuner.sft import SFTConfig
    from auto_bot_tuner.training.config import ModelConfig

    configs = (SFTConfig, RewardModelConfig, DPOConfig, PPOConfig, GRPOConfig, GenerationConfig)
    mathematics = {name: getattr(math, name) for name in ("log", "exp", "sqrt", "log2", "floor")}
    return {
        **mathematics,
        **{config.__name__: config() for config in configs},
        "IGNORE_INDEX": IGNORE_INDEX,
        "BEST": SCORE_RANGE[1],
        "TASKS": len({row["task"] for row in load_split("tiny-instructions", "test")}),
        "LORA_RANK": ModelConfig.lora_r,
        "BLOCK": BLOCK,
        "float16": torch.finfo(torch.float16),
        "bfloat16": torch.finfo(torch.bfloat16),
        "TEXTS": signature(probes).parameters["count"].default,
        "clip_range": clip_range,
        "normal_quantile": NormalDist().inv_cdf,
        "round": round,
        "abs": abs,
        "rows": bundled_rows,
        "weights": bundled_weights,
        "nth": nth,
        "result": result,
    }


def worked_out(formula: str) -> float:
    """The value of a formula over `known()`; a name, an attribute, a call or arithmetic, and nothing else."""
    tree = ast.parse(formula.strip(), mode="eval")
    return float(eval(compile(tree, formula, "eval"), {"__builtins__": {}}, known()))


def nth(source: str, n: int) -> float:
    """The n-th number (from 1) of a source that is one line."""
    (line,) = source_lines(source)
    return next(number for place, number in enumerate(numbers_of(source), 1) if place == n) if line else math.nan


def result(source: str, *keys: Any) -> float:
    """A figure of a JSON record."""
    content = json.loads("\n".join(source_lines(source)))
    for key in keys:
        content = content[key]
    return float(content)


@cache
def bundled_rows(name: str, split: str = "train") -> int:
    from auto_bot_tuner.data.sources import load_split

    return len(load_split(name, split))


@cache
def bundled_weights(name: str = "tiny") -> int:
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    return sum(p.numel() for p in load_model_and_tokenizer(name, "cpu")[0].parameters())
