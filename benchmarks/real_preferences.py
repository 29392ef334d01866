"""Reward models and DPO on preferences that people gave, with small models that people made.

    AUTO_BOT_TUNER_SHARED=folder python -m benchmarks.real_preferences          everything; results/real-preferences.md
    AUTO_BOT_TUNER_SHARED=folder python -m benchmarks.real_preferences reward   a part of it, on the terminal alone

In the folder lie data/hh-rlhf (raw transcripts of Anthropic's harmless-base test set), data/preference (OpenAssistant's
human rankings as pairs) and data/models. Three questions:

1. Is a reward model right about held-out HH pairs more often than a coin, and than the rule of length?
2. The same for the human-ranked pairs, with an interval; a thread's pairs are all on one side of a split.
3. Does DPO start where theory says, with every kind of reference; what does it do to held-out pairs; and is `final/`
   the trained policy in plain transformers and peft?
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from auto_bot_tuner.evaluation.intervals import share_won
from benchmarks.real_dpo import MAX_LENGTH, Outcome, Run, dpo, sft_checkpoint
from benchmarks.real_rewards import (
    Measured,
    Recipe,
    interval_by_opening,
    mean_and_error,
    measure,
    right,
    splits,
)

RESULTS = Path(__file__).parent / "results" / "real-preferences.md"
HH, RANKED = "hh-rlhf/harmless-base-1156.jsonl", "preference/oasst-human-ranked-754.jsonl"
SEED = 7  # of the splits; settings were looked for on others (100 and up)
# A head of 64 numbers on features that stand still: a thousand pairs are not enough for one epoch of small steps.
RECIPE: dict[str, Any] = {
    "learning_rate": 3e-2,
    "num_epochs": 3,
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
}
RECIPE_IN_WORDS = "stories260k, whose weights stay as they are; the score head is trained for three epochs, 512 tokens"


def data_folder() -> Path:
    folder = os.environ.get("AUTO_BOT_TUNER_SHARED")
    if not folder or not (Path(folder) / "data").is_dir():
        sys.exit("error: AUTO_BOT_TUNER_SHARED names no folder with data/: real preferences and models are read there")
    return Path(folder) / "data"


def read_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data_folder() / name).read_text(encoding="utf-8").splitlines()]


# ---- reward models ---------------------------------------------------------------------------------------------------


def recipe(model: str = "stories260k", **settings: Any) -> Recipe:
    """The reward models of the record; `settings` as they are in `RewardModelConfig`."""
    return Recipe(str(data_folder() / "models" / model), frozen_base=True, settings=RECIPE | settings)


def reward_section(title: str, name: str, seed: int = SEED, most_rows: int = 0) -> str:
    """Five splits of one data set, as Markdown."""
    rows = read_rows(name)[: most_rows or None]
    measured = []
    for number, split in enumerate(splits(rows, seed)):
        measured.append(measure(split, recipe(), seed + number))
        print(f"{title}, split {number + 1}: {share_won(measured[-1].margins)}", flush=True)
    return f"## {title}\n\n{reward_table(measured)}\n\n{reward_words(measured)}\n"


def reward_table(measured: Sequence[Measured]) -> str:
    """Accuracy on the held-out pairs of each split, beside rules without understanding."""
    lines = [["split", "held-out pairs", "reward model", "length alone", "bag of words"], ["---"] * 5]
    columns = list(zip(*(accuracies(split) for split in measured), strict=True))  # 3 of (splits,)
    for number, split in enumerate(measured):
        rule = "longer" if split.prefers_longer else "shorter"
        model, length, words = (column[number] for column in columns)
        lines.append(
            [str(number + 1), str(len(split.margins)), f"{model:.1%}", f"{length:.1%} ({rule})", f"{words:.1%}"]
        )
    means = [mean_and_error(column) for column in columns]
    pairs = sum(len(split.margins) for split in measured)
    lines.append(["**mean ± standard error**", str(pairs), *(f"**{mean:.1%}** ± {error:.1%}" for mean, error in means)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracies(split: Measured) -> tuple[float, float, float]:
    """Of the reward model, of length alone, of a bag of words."""
    return share_won(split.margins).value, share_won(split.longer).value, split.words.value


def reward_words(measured: Sequence[Measured]) -> str:
    """All splits' pairs together, with intervals, and what they allow to say."""

    def ahead(split: Measured) -> list[float]:
        return [a - b for a, b in zip(right(split.margins), right(split.longer), strict=True)]

    model = interval_by_opening(measured, lambda split: right(split.margins))
    length = interval_by_opening(measured, lambda split: right(split.longer))
    lead = interval_by_opening(measured, ahead)
    pairs = sum(len(split.margins) for split in measured)
    total = sum(sum(right(split.margins)) for split in measured) / pairs
    shortest = sum(sum(right(split.longer)) for split in measured) / pairs
    coin = verdict(model[0] - 0.5, model[1] - 0.5)
    return f"""All {pairs} pairs: reward model {total:.1%} {shown(model)}, length alone {shortest:.1%} {shown(length)},
the first less the second {total - shortest:+.1%} {shown(lead)}. Against a coin: {coin};
against length: {verdict(*lead)}."""


def shown(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:+.1%}, {interval[1]:+.1%}]" if interval[0] < 0 else f"[{interval[0]:.1%}, {interval[1]:.1%}]"


def verdict(low: float, high: float) -> str:
    """What an interval of a difference allows to say.

    >>> verdict(0.01, 0.05), verdict(-0.01, 0.05)
    ('better', 'not significant')
    """
    return "better" if low > 0 else "worse" if high < 0 else "not significant"


# ---- DPO -------------------------------------------------------------------------------------------------------------

RUNS = (
    Run("full, one epoch", ".", False, "copy", 1e-4),
    Run("full, first 8 steps", ".", False, "precomputed", 1e-4, 8),
    Run("LoRA, one epoch", ".", True, "adapter_off", 1e-3),
    Run("SFT's own LoRA trained on, first 8 steps", "adapter", True, "adapter_copy", 1e-3, 8),
)


def dpo_section(most_rows: int = 0, runs: Sequence[Run] = RUNS) -> tuple[str, list[Outcome]]:
    """DPO on the first of HH's splits, as Markdown, and the outcomes."""
    split = splits(read_rows(HH)[: most_rows or None], SEED)[0]
    with tempfile.TemporaryDirectory() as folder:
        sft = sft_checkpoint(str(data_folder() / "models" / "gpt2-basic-chat-690k"), split.train, Path(folder) / "sft")
        outcomes = []
        for number, run in enumerate(runs):
            outcomes.append(dpo(run, sft, split.train, split.held_out, Path(folder) / f"dpo{number}"))
            print(f"DPO {run.title}: step 0 {'as known' if outcomes[-1].start_is_known else 'WRONG'}", flush=True)
    return f"## DPO on HH, from SFT with LoRA\n\n{start_table(outcomes)}\n\n{effect_table(outcomes)}\n", outcomes


def start_table(outcomes: Sequence[Outcome]) -> str:
    """What must hold before the first step, and of the folder that is left after the last."""
    lines = [
        [
            "run",
            "reference",
            "loss at step 0, less ln 2",
            "margin at step 0",
            "as it must be",
            "final/ in transformers or peft, less the trained policy",
            "less the starting policy",
        ],
        ["---"] * 7,
    ]
    for outcome in outcomes:
        lines.append(
            [
                outcome.run.title,
                outcome.reference,
                f"{outcome.before['eval_loss'] - math.log(2):+.1e}",
                f"{outcome.before['eval_reward_margin']:+.1e}",
                "yes" if outcome.start_is_known else "NO",
                f"{outcome.final_difference:.1e}",
                f"{outcome.final_apart:.2f}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def effect_table(outcomes: Sequence[Outcome]) -> str:
    """Held-out pairs before and after; chosen and rejected log-probabilities apart, so that displacement is seen."""
    lines = [
        ["run", "held-out accuracy", "margin", "log-prob. of chosen, before → after", "of rejected"],
        ["---"] * 5,
    ]
    for outcome in outcomes:
        before, after = outcome.before, outcome.after
        moves = [
            f"{before[name]:.1f} → {after[name]:.1f} ({after[name] - before[name]:+.1f})"
            for name in ("eval_chosen_logprobs", "eval_rejected_logprobs")
        ]
        accuracy, margin = after["eval_accuracy"], after["eval_reward_margin"]
        lines.append([outcome.run.title, f"{accuracy:.1%}", f"{margin:+.3f}", *moves])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ---- the command -----------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "reward": lambda: reward_section("Reward model on HH (harmless-base)", HH),
    "ranked": lambda: reward_section("Reward model on human-ranked pairs", RANKED),
    "dpo": lambda: dpo_section()[0],
}

REMARKS = """Reward models: {recipe}. The rule of length (longer or shorter answers, in characters) is the one that
holds on the training pairs; the bag of words (`evaluation/baselines.py`) is fitted on them. The five held-out parts
are all rows, each once; conversations that open with the same user turn are on one side of every split. Intervals
hold 95 %, from a bootstrap that draws conversations by their first user turn: pairs of one thread are no independent
evidence. They say nothing of another choice of training rows.

DPO: gpt2-basic-chat-690k, sigmoid loss, beta 0.1, at most {tokens} tokens, 16 pairs a step, on the first split of HH;
the start is one epoch of SFT with LoRA on its chosen answers. Step 0 is measured on all held-out pairs and on the
first batch; `final/` is compared by the log-probabilities of single tokens, the largest difference."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all, and the record is written")
    parts = parser.parse_args().parts
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)
    data_folder()
    sections = []
    for part in parts or PARTS:
        started = time.process_time()
        section = PARTS[part]()
        sections.append(f"{section}\n{(time.process_time() - started) / 60:.1f} minutes of CPU time.\n")
        print(f"\n{sections[-1]}", flush=True)
    if not parts:
        remarks = REMARKS.format(recipe=RECIPE_IN_WORDS, tokens=MAX_LENGTH)
        title = f"# Real preferences\n\nMade by `python -m benchmarks.real_preferences`. {machine()}.\n"
        RESULTS.write_text("\n".join([title, *sections, remarks]) + "\n", encoding="utf-8")
        print(f"written to {RESULTS}")


def machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"{os.cpu_count()} {platform.machine()} cores, 1 thread; {versions}"


if __name__ == "__main__":
    main()
