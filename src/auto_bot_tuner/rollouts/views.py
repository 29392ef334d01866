"""Responses token by token, with what the method makes of each token: the heat-maps of PPO and GRPO.

The responses are those to the first evaluation prompts, with the noise that every evaluation has: between the first and
the last view only the policy differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from auto_bot_tuner.evaluation.engine import evaluation_mode
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.trainer import EVALUATION, OnPolicyTrainer
from auto_bot_tuner.training.token_views import View, token_view


def views_of_responses(
    trainer: OnPolicyTrainer,
    dataset: Any,
    rows: Sequence[int],
    series_of: Callable[[Rollout], Mapping[str, torch.Tensor]],
    choose: Callable[[Rollout], Rollout] = lambda rollout: rollout,
) -> list[View]:
    """`samples_per_prompt` responses to each of these prompts. The trainer is left as it was.

    Args:
        series_of: called with the rollout, which has all that `judge` wants; figures of its tokens by name, (N, R).
        choose: the part of the scored rollout that is shown.
    """
    if not rows:
        return []
    window, trainer.window = trainer.window, {}  # the statistics of the log are those of training
    try:
        rollout = choose(trainer.write_and_score_here(dataset, rows, trainer.samples_per_prompt, EVALUATION)[0])
        with evaluation_mode(trainer.module), torch.no_grad():
            for cut in trainer.cut(rollout, range(len(rollout.rows) // rollout.samples), 1):
                trainer.foresee(rollout, cut, trainer.collate_rows(rollout, cut).to(trainer.accelerator.device))
        series = series_of(rollout)
    finally:
        trainer.window = window
    assert rollout.raw_scores is not None
    views = []
    for i, attempt in enumerate(rollout.attempts):
        ids, before = [*attempt.prompt_ids, *attempt.response_ids], len(attempt.prompt_ids)
        found = {
            name: [0.0] * before + values[i, : len(attempt.response_ids)].tolist() for name, values in series.items()
        }
        title = f"response {i}, score {rollout.raw_scores[i].item():.3g}"
        trained = [place >= before for place in range(len(ids))]
        views.append(token_view(trainer.tokenizer, title, ids, trained, found))
    return views
