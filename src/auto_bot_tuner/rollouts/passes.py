"""The forward passes over a rollout: those that complete it, and those that learn from it.

Both go the same way: whole prompts with their responses, cut into micro-batches by the token budget, laid out as
sequences by `minibatches.py`. A method says which responses teach something, and what they weigh.

The *old* log-probabilities, which every ratio divides by, are those of writing where that computes as training does
(float32), else those of a training forward over the fresh rollout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from auto_bot_tuner.rollouts.minibatches import at_responses, collate, rows_of, units_of
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.schedule import RolloutSchedule
from auto_bot_tuner.training.batching import Batch, cut_by_tokens, epoch_order, share_between
from auto_bot_tuner.training.reference import Reference
from auto_bot_tuner.utils.errors import UserError

EVALUATION = 0  # the number of the rollouts that evaluate, for their noise; those of training count from 1
RATIO_TOLERANCE = 1e-3  # mean |ratio - 1| before the first step; rounding of float32 is a hundredth of it


class RolloutPasses(RolloutSchedule):
    """A trainer's way through the responses of a rollout."""

    reference: Reference | None
    window: dict[str, list[float]]  # statistics of the rollouts since the last log

    # ---- what a method says ----

    def policy_logprobs(self, batch: Batch) -> torch.Tensor:
        """(S, T): log-probability of each trained token by the training forward, without what else that computes."""
        raise NotImplementedError

    def foresee(self, rollout: Rollout, rows: Sequence[int], batch: Batch) -> None:
        """Step 5: values before the tokens of these responses, where the method has any; their batch is at hand."""

    # ---- what counts ----

    def counts(self, rollout: Rollout) -> torch.Tensor:
        """(prompts,) bool: the prompts that stand in the loss; those without a trained token are left out."""
        return self.of_any_token(rollout, self.loss_mask(rollout))

    def teaches(self, rollout: Rollout) -> torch.Tensor:
        """(prompts,) bool: those whose responses have something to learn from. A step without any is skipped."""
        raise NotImplementedError

    def weight_of(self, mask: torch.Tensor) -> float:
        """What responses with this loss mask (S, R) weigh in their step."""
        raise NotImplementedError

    def loss_mask(self, rollout: Rollout) -> torch.Tensor:
        """(N, R) bool: the tokens that are trained."""
        return rollout.mask & rollout.ended[:, None] if self.config.mask_unfinished else rollout.mask

    def of_any_token(self, rollout: Rollout, claim: torch.Tensor) -> torch.Tensor:
        """(N, R) bool -> (prompts,): whether it holds for a token of a response to the prompt."""
        return claim.view(len(rollout.rows) // rollout.samples, -1).any(dim=1)

    def usable_scores(self, rollout: Rollout) -> torch.Tensor:
        """(N,): the scores as the method uses them: clipped, less the penalty of not ending."""
        assert rollout.raw_scores is not None
        clip = self.config.reward_clip or math.inf
        return self.scaled(rollout.raw_scores).clamp(-clip, clip) - self.config.missing_eos_penalty * ~rollout.ended

    def scaled(self, scores: torch.Tensor) -> torch.Tensor:
        """(N,): raw scores in the unit that they are clipped and penalised in."""
        return scores

    # ---- from a rollout to micro-batches ----

    def minibatch(self, rollout: Rollout, epoch: int, index: int) -> list[Batch]:
        """This process's micro-batches of one optimiser step, which takes whole prompts: all of their responses."""
        groups = len(rollout.rows) // rollout.samples
        rollout_number = self.state.step // self.steps_per_rollout
        order = epoch_order(groups, self.config.seed, rollout_number * self.config.epochs_per_rollout + epoch)
        counts, teaches = self.counts(rollout), self.teaches(rollout)
        chosen = [group for group in order[index :: self.config.minibatches] if counts[group]]
        if not teaches[chosen].any():  # asked of the whole step: every process comes to the same answer
            return []
        cuts = self.cut(rollout, chosen, self.processes)
        return [self.collate_rows(rollout, rows) for rows in cuts[self.rank :: self.processes]]

    def cut(self, rollout: Rollout, groups: Iterable[int], processes: int) -> list[list[int]]:
        """The responses of these prompts, cut by the token budget into a multiple of `processes` forward passes."""
        units, costs = units_of(rollout, groups, self.is_flat, self.token_budget)
        cuts = share_between(cut_by_tokens(range(len(units)), costs, self.token_budget), costs, processes)
        return [[row for unit in cut for row in units[unit]] for cut in cuts]

    def collate_rollout(self, rollout: Rollout, groups: Sequence[int]) -> Batch:
        """These prompts with all of their responses as one forward pass."""
        return self.collate_rows(rollout, rows_of(rollout, groups))

    def collate_rows(self, rollout: Rollout, rows: Sequence[int]) -> Batch:
        """These responses with their prompts as one forward pass, weighed by the method."""
        batch = collate(rollout, rows, self.loss_mask(rollout))
        batch.weight = self.weight_of(batch["mask"]) if rows else 0
        return batch

    # ---- what ratios stand on ----

    def compare(self, rollout: Rollout, number: int) -> None:
        """Step 3, and what else forward passes say: fresh old log-probabilities where writing's will not do; values."""
        width = rollout.responses.shape[1]
        if self.reference is not None:
            rollout.reference_logprobs = torch.zeros(rollout.logprobs.shape)
        for rows in self.cut(rollout, range(len(rollout.rows) // rollout.samples), 1):
            batch = self.collate_rows(rollout, rows).to(self.accelerator.device)
            if self.reference is not None and rollout.reference_logprobs is not None:
                with self.accelerator.autocast():  # as the policy computes: the same model gives the same numbers
                    found = self.reference.logprobs(batch)
                rollout.reference_logprobs[rows] = at_responses(found, batch["labels"], width).cpu()
            if not self.keeps_sampling_logprobs:
                with self.accelerator.autocast():
                    fresh = self.policy_logprobs(batch)
                self.refresh_logprobs(fresh, rollout, rows, batch)
            if number != EVALUATION:  # nothing is learnt from those
                self.foresee(rollout, rows, batch)

    def refresh_logprobs(self, logprobs: torch.Tensor, rollout: Rollout, rows: Sequence[int], batch: Batch) -> None:
        """Old log-probabilities from a training forward, (S, T), instead of those of writing; the gap is logged."""
        found = at_responses(logprobs, batch["labels"], rollout.responses.shape[1]).cpu()
        gap = (found - rollout.logprobs[rows])[rollout.mask[rows]].abs().mean()
        self.window.setdefault("sampling_gap", []).append(float(gap))
        rollout.logprobs[rows] = found

    def check_ratio(self, logprobs: torch.Tensor, batch: Batch) -> None:
        """Before the first step the policy is the one that wrote: every ratio is 1, but for rounding.

        Raises:
            UserError: it is not, so that every later ratio would be wrong too.
        """
        if self.has_moved or self.state.step > self.state.skipped or not batch.weight:
            return
        difference = (logprobs.detach() - batch["old_logprobs"])[batch["mask"]]
        gap = float(torch.expm1(difference).abs().mean())
        if self.is_exact and gap > RATIO_TOLERANCE:
            raise UserError(
                f"before the first step policy and old policy are the same, yet their ratio is off by {gap:.2g} on "
                "average: something random is on (dropout), or the model computes otherwise in writing than in training"
            )
