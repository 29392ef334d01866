"""Make the bundled world from nothing: data sets, tokenizer, base model. One command, one seed.

    python -m auto_bot_tuner.assets.make_world --out world

The data sets and the tokenizer take seconds, and the same seed gives the same files. The model takes about half an hour
on two cores; its weights agree from run to run as far as the machine's arithmetic does (another CPU rounds otherwise).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from .preferences import preference_rows
from .pretraining import CONTEXT, new_model, packed_batches, pretrain, train_tokenizer
from .prompts import prompt_rows, puzzle_rows
from .world import Row, instruction_rows, text_rows, tokenizer_texts

STEPS = 8500
BATCH_SIZE = 16  # rows of 256 tokens; many small steps teach a small model more than few large ones
PEAK_LEARNING_RATE = 2e-3
HERE = Path(__file__).resolve().parent


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_datasets(out: Path, seed: int) -> None:
    makers: dict[str, Callable[[int], dict[str, list[Row]]]] = {
        "tiny-instructions": instruction_rows,
        "tiny-text": text_rows,
        "tiny-preferences": preference_rows,
        "tiny-prompts": prompt_rows,
        "tiny-puzzles": puzzle_rows,
    }
    for name, rows_of in makers.items():
        for split, rows in rows_of(seed).items():
            write_jsonl(out / name / f"{split}.jsonl", rows)


def make_model(out: Path, seed: int, steps: int) -> None:
    tokenizer = train_tokenizer(tokenizer_texts(seed))
    model = new_model(tokenizer, seed)
    print(f"{model.num_parameters():,} parameters, {steps * BATCH_SIZE * CONTEXT:,} tokens of text")

    def save() -> None:
        model.save_pretrained(out / "tiny")
        tokenizer.save_pretrained(out / "tiny")

    pretrain(model, packed_batches(tokenizer, seed, BATCH_SIZE), steps, PEAK_LEARNING_RATE, save)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: the package itself)")
    parser.add_argument("--seed", type=int, default=0, help="seed of rows, text and weights")
    parser.add_argument("--steps", type=int, default=STEPS, help="pre-training steps; 0 makes the data sets only")
    arguments = parser.parse_args()
    start = time.perf_counter()
    write_datasets(arguments.out, arguments.seed)
    if arguments.steps:
        make_model(arguments.out, arguments.seed, arguments.steps)
    print(f"made {arguments.out} in {time.perf_counter() - start:,.0f} s")


if __name__ == "__main__":
    main()
