"""Small DPO runs for tests: 22 random pairs, the two-layer model of `training_runs`, a few steps in under a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from auto_bot_tuner.data.response_groups import Group
from auto_bot_tuner.dpo import DPOConfig, DPOTrainer
from tests.training_runs import SHORT_RUN, STOP, VOCABULARY, small_model


class Pairs:
    """Prompts of 3 to 11 tokens, each with answers of 2 to 15 that end with the stop token and alone are trained."""

    def __init__(self, count: int = 22, seed: int = 3, sides: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)

        def words(low: int, high: int) -> torch.Tensor:
            length = int(torch.randint(low, high, (1,), generator=generator))
            return torch.randint(1, VOCABULARY, (length,), generator=generator)

        self.questions = [words(3, 12) for _ in range(count)]
        self.answers = [[torch.cat([words(1, 15), torch.tensor([STOP])]) for _ in range(sides)] for _ in range(count)]
        # Single answers: good, bad, bad, good, bad, bad …
        self.scores = [[float(row % 3 == 0)] if sides == 1 else [torch.nan] * sides for row in range(count)]
        self.lengths = [
            len(prompt) + sum(map(len, answers)) for prompt, answers in zip(self.questions, self.answers, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.lengths)

    def group(self, index: int) -> Group:
        prompt, answers = self.questions[index], self.answers[index]
        labels = [torch.cat([torch.full_like(prompt, -100), answer]) for answer in answers]
        return Group([torch.cat([prompt, answer]) for answer in answers], labels, len(prompt), self.scores[index])


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word: saved in no time, and TRL, which wants text, reads our random tokens by it."""
    words = {"<stop>": STOP} | {f"word{i}": i for i in range(1, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<stop>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<stop>", pad_token="<stop>")


def dpo_trainer(
    folder: Path, policy: Any = None, reference_model: Any = None, rows: Any = None, **settings: Any
) -> DPOTrainer:
    """A trainer over the pairs, evaluating on six of them; `settings` go into DPOConfig."""
    config = DPOConfig(**{"output_dir": str(folder), **SHORT_RUN, **settings})
    rows = rows or Pairs(sides=1 if config.loss == "kto" else 2)
    policy = policy if policy is not None else small_model()
    return DPOTrainer(policy, reference_model, word_tokenizer(), rows, Pairs(6, 4, len(rows.answers[0])), config)
