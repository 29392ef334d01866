"""Rejection-sampling fine-tuning: the model writes n answers, keeps the best of each prompt, and imitates those.

    prompts → n answers each → reward → the best → InstructionDataset → SFTTrainer, as ever

The simplest way to learn from a reward, and the baseline for PPO and GRPO: no reference, no ratio, no value network
(RAFT, Dong et al. 2023, 2304.06767; Llama 2, Touvron et al. 2023, 2307.09288, sec. 3.2.3). What it teaches is the
distribution that best-of-n sampling has (`evaluation/best_of.py`), at the price of one answer instead of n.

What is not kept, and why:

    no difference     the best is no better than the average of its n: the reward prefers nothing here, be it that all
                      are right (nothing is left to learn) or that all are wrong (to imitate one would teach it)
    none ended        every answer was cut off. The end token that SFT would put there is one that the model never
                      wrote; it would learn to stop in the middle
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from auto_bot_tuner.evaluation.best_of import best_of, best_of_kl
from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.rewards.named import as_reward, rewards_from_names
from auto_bot_tuner.rollouts.dataset import PromptDataset
from auto_bot_tuner.sft.config import SFTConfig
from auto_bot_tuner.utils.errors import UsageError, UserError

# Equal answers may differ by so much in their scores: a reward model's arithmetic is not the same in every batch.
ROUNDING = 1e-5


@dataclass
class BestOfSummary:
    """What came of the writing."""

    reward: str  # its name
    n: int
    prompts: int
    mean: float  # score of all answers
    best: float  # mean of each prompt's best
    drop_reasons: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        return self.prompts - self.drop_reasons.total()

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.drop_reasons.items())
        return "\n".join(
            [
                f"written  {self.n} answers to each of {self.prompts:,} prompts",
                f"reward   {self.reward}: mean {self.mean:.3f}, best of {self.n} {self.best:.3f}",
                f"kept     {self.kept:,} best answers{f' (left out: {reasons})' if reasons else ''}",
                f"KL       best of {self.n} is at most {best_of_kl(self.n):.2f} nats an answer from the model",
            ]
        )


def best_of_rows(
    model: Any,
    tokenizer: Any,
    rows: Any,
    config: SFTConfig,
    max_length: int,
    system_prompt: str = "",
    reward: Any = None,
) -> tuple[list[dict[str, Any]], BestOfSummary]:
    """Rows in the format chat, each a prompt with the model's own best answer, and what came of the writing.

    With several processes each writes all answers, and as the noise is the seed's, the same ones.

    Args:
        rows: of any kind that `PromptDataset` reads; answers in them are not imitated, but a verifier may read them.
        config: `from_best_of`, `reward`, `best_of_temperature`, `best_of_max_new_tokens`, `seed`.
        max_length: of a training row, in tokens. Prompts that leave no room for `best_of_max_new_tokens` are dropped.
        system_prompt: for prompts that have none; the rows have it in them.
        reward: instead of the names in `config.reward`: whatever `as_reward` takes.

    Raises:
        UsageError: no reward, or `max_length` leaves no room for a prompt.
        UserError: no answer is left to learn from.
    """
    room = max_length - config.best_of_max_new_tokens
    if room < 1:
        raise UsageError(
            f"max_length {max_length} leaves no room for a prompt before best_of_max_new_tokens "
            f"{config.best_of_max_new_tokens}: raise the one or lower the other"
        )
    source = rewards_from_names(config.reward) if reward is None else as_reward(reward, tokenizer)
    prompts = PromptDataset(rows, tokenizer, room, system_prompt=system_prompt)
    writing = GenerationConfig(
        temperature=config.best_of_temperature, max_new_tokens=config.best_of_max_new_tokens, seed=config.seed
    )
    n = config.from_best_of
    written = best_of(model, tokenizer, prompts, source, n, writing)
    mean = written.scores.mean(dim=1)  # (M,)
    summary = BestOfSummary(source.name, n, len(prompts), float(mean.mean()), float(written.scores.amax(1).mean()))
    ended = torch.tensor([attempt.ended for attempt in written.attempts]).view(-1, n)  # (M, n)
    of_ended = written.scores.masked_fill(~ended, -torch.inf)
    kept = []
    for prompt, (score, sample) in enumerate(zip(*(found.tolist() for found in of_ended.max(dim=1)), strict=True)):
        best = written.attempts[prompt * n + sample]
        average = float(mean[prompt])
        if not best.ended:
            summary.drop_reasons["none ended"] += 1
        elif score <= average + ROUNDING * max(1.0, abs(average)):
            summary.drop_reasons["no difference"] += 1
        else:
            kept.append({"messages": [*best.prompt, {"role": "assistant", "content": best.response}]})
    if not kept:
        raise UserError(f"none of the model's answers is worth imitating: {why_none(summary)}")
    return kept, summary


def why_none(summary: BestOfSummary) -> str:
    if summary.drop_reasons["none ended"] > summary.drop_reasons["no difference"]:
        return "they were all cut off; raise --best-of-max-new-tokens, or begin with a model that has learnt to stop"
    return (
        f"to no prompt is one better than the others by {summary.reward} (mean {summary.mean:.3f}); raise "
        "--from-best-of or --best-of-temperature, or take another reward or an easier data set"
    )
