"""The bundled world: a tiny base model and data sets that travel with the package, for a first run without a network.

Importing this is cheap (standard library only); the generator, the scorer and the pre-training live in the modules
beside it.

- `tiny`: a GPT-2 of 1.4 M parameters that completes text of its own small world and does not follow instructions.
- `tiny-instructions`: questions about that world, on its words and on numbers; columns `instruction`, `input`,
  `output`, and `task` and `key`, by which `gold.is_correct` checks any answer. Splits `train` and `test`; no question
  is in both, in any wording.
- `tiny-preferences`: pairs of responses to such questions, one liked better; columns `prompt`, `chosen`, `rejected`,
  `category` (what is wrong with the rejected one), and `task`, `key`, `output`, by which `gold.gold_score` judges any
  response. The judge of `train` errs now and then, that of `test` does not.
- `tiny-prompts`: questions of all tasks for a policy to answer by itself (PPO), in the columns of `tiny-instructions`:
  new ones, but for the tasks of which all are asked there already.
- `tiny-puzzles`: numbers to sort downwards, the same columns; for GRPO, which makes a half-learnt task whole.
- `tiny-text`: documents in the style of the base model's text that it has not read, for perplexity; column `text`.

`python -m auto_bot_tuner.assets.make_world` makes all of it from a seed.
"""

from __future__ import annotations

from pathlib import Path

BUNDLED_MODELS = {"tiny": "GPT-2 architecture, 1.4 M parameters: completes text of its world, follows no instructions"}
BUNDLED_DATASETS = {
    "tiny-instructions": "5,820 + 500 instructions in 20 tasks, checkable by code (alpaca columns, task, key)",
    "tiny-preferences": "9,000 + 1,000 pairs of responses, judged by gold score (prompt, chosen, rejected, category)",
    "tiny-prompts": "2,000 + 300 questions for PPO, checkable by code (alpaca columns, task, key)",
    "tiny-puzzles": "1,500 + 200 lists to sort downwards, for GRPO (alpaca columns, task, key)",
    "tiny-text": "700 + 300 documents of the world that the base model has not read (column text)",
}
FOLDER = Path(__file__).resolve().parent


def bundled_model(name: str) -> Path | None:
    """The folder of a bundled model, or None where the name is not one: then it is a path or a hub name."""
    return FOLDER / name if name in BUNDLED_MODELS else None


def bundled_dataset(name: str, split: str = "train") -> Path | None:
    """The JSON-lines file of a bundled data set's split, or None where there is no such name or split."""
    path = FOLDER / name / f"{split}.jsonl"
    return path if name in BUNDLED_DATASETS and path.is_file() else None
