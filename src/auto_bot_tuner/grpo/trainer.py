"""GRPO and its relatives: several responses to each prompt, and what beats its siblings becomes likelier.

No value network and, without a KL term, no reference: what was to be expected of a prompt is told by the group's mean.
How a rollout is written and used is told in `rollouts/trainer.py`; what the family adds is two lines:

    advantages = group_advantages(scores, group_size, loss=config.loss)     # 6, one number for a whole response
    loss = grpo_loss(logprobs, old_logprobs, advantages, mask, loss=config.loss, …)

What to look at: `reward` should rise; `groups_without_spread` says how many prompts taught nothing, being solved always
or never. The loss says nothing: it starts near 0 and stays there, while its gradient does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.grpo.config import WITHOUT_CLIP, GRPOConfig
from auto_bot_tuner.grpo.loss import (
    clip_range,
    group_advantages,
    grpo_loss,
    has_spread,
    loss_weight,
    overlong_penalty,
    rewards_with_kl,
)
from auto_bot_tuner.rollouts.minibatches import SEQUENCES, at_responses, rows_of
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer
from auto_bot_tuner.rollouts.views import views_of_responses
from auto_bot_tuner.rollouts.writing import take
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.logprobs import SequenceLogprobs
from auto_bot_tuner.training.token_views import View, shown_rows
from auto_bot_tuner.utils.errors import UsageError

__all__ = ["GRPOConfig", "GRPOTrainer"]


class PolicyTokens(SequenceLogprobs):
    """The policy as the loop wants it: log-probabilities, and entropies to look at."""

    def forward(  # type: ignore[override]  # two things instead of one
        self, input_ids: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor, shared: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sequences (S, T) -> log-probabilities and entropies of their trained tokens, (S, T) each."""
        return self.with_entropies(input_ids, labels, lengths, shared, "measured")


class GRPOTrainer(OnPolicyTrainer):
    """Trains a policy on groups of its own responses, by the member of the family that `config.loss` names.

    GRPOTrainer(policy, reward, tokenizer, prompt_dataset, reference_model=None, eval_dataset=None, config=None,
    callbacks=None); `reward` is any reward source. `train()` returns a summary, `evaluate()` the metrics of one sampled
    response to each evaluation prompt.

    Raises:
        UsageError: models and settings contradict each other.
    """

    Config = GRPOConfig
    config: GRPOConfig

    def __init__(
        self,
        policy: nn.Module,
        reward: Any,
        tokenizer: Any,
        prompt_dataset: Any,
        reference_model: nn.Module | None = None,
        eval_dataset: Any = None,
        config: GRPOConfig | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        config = config if config is not None else GRPOConfig()
        super().__init__(policy, reward, reference_model, tokenizer, prompt_dataset, eval_dataset, config, callbacks)
        self.shown_prompt: int | None = None  # the row whose group the token views show, once it is chosen

    @property
    def samples_per_prompt(self) -> int:  # type: ignore[override]
        return self.config.group_size

    def needs_reference(self, config: Any) -> bool:
        """Only a KL term compares with one."""
        return bool(config.beta > 0)

    def check_data(self) -> None:
        """As the others'; and a rollout holds something to compare."""
        super().check_data()
        if self.prompts_per_rollout * self.config.group_size < 2:
            raise UsageError("a rollout of one response has none to compare it with: --batch-size 2 or --group-size 2")

    def build_module(self) -> nn.Module:
        return PolicyTokens(self.model, self.config.temperature)

    # ---- a rollout ----

    def policy_logprobs(self, batch: Batch) -> torch.Tensor:
        module: PolicyTokens = self.accelerator.unwrap_model(self.module)
        input_ids, labels, lengths, shared = (batch[name] for name in SEQUENCES)
        return module.with_entropies(input_ids, labels, lengths, shared, "none")[0]

    def judge(self, rollout: Rollout) -> None:
        """Scores, and the advantage of each response over its siblings, the same for all of its tokens."""
        config = self.config
        rollout.scores = self.usable_scores(rollout)
        compared = rollout.scores
        if config.beta and config.loss in WITHOUT_CLIP:
            assert rollout.reference_logprobs is not None
            compared = rewards_with_kl(
                compared, rollout.logprobs, rollout.reference_logprobs, rollout.mask, config.beta
            )
        if len(compared) > 1:
            advantages = group_advantages(
                compared, config.group_size, loss=config.loss, scale_by_std=config.scale_by_std
            )  # (N,)
        else:  # REINFORCE with one response to a prompt, at the last prompt of an epoch: nothing to compare with
            advantages = torch.zeros(1)
        rollout.advantages = advantages[:, None] * rollout.mask

    def usable_scores(self, rollout: Rollout) -> torch.Tensor:
        """As PPO's; less DAPO's penalty of responses that near the limit."""
        config = self.config
        penalty = overlong_penalty(rollout.lengths, config.max_new_tokens, config.overlong_buffer)
        return super().usable_scores(rollout) - penalty

    def counts(self, rollout: Rollout) -> torch.Tensor:
        """As PPO's; without the groups that teach nothing, where those are left out."""
        drops = self.config.drop_equal_groups
        if drops if drops is not None else self.config.loss == "dapo":
            return self.teaches(rollout)
        return super().counts(rollout)

    def teaches(self, rollout: Rollout) -> torch.Tensor:
        """(prompts,) bool: groups whose responses differ in reward."""
        counts = super().counts(rollout)
        # REINFORCE compares all responses of the rollout: it learns from prompts that differ, too.
        compared = len(rollout.rows) if self.config.loss == "reinforce" else rollout.samples
        return counts & has_spread(rollout.scores, compared).expand_as(counts)

    # ---- what a batch is worth ----

    def weight_of(self, mask: torch.Tensor) -> float:
        return loss_weight(mask, self.config.loss)

    def compute_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """`grpo_loss` of a micro-batch, a mean over its weight, and the entropy of its tokens."""
        config, mask, width = self.config, batch["mask"], batch["mask"].shape[1]
        per_token = self.module(*(batch[name] for name in SEQUENCES))
        logprobs, entropies = (at_responses(x, batch["labels"], width) for x in per_token)  # (S, R)
        self.check_ratio(logprobs, batch)
        is_in_loss = config.beta > 0 and config.loss not in WITHOUT_CLIP
        loss, metrics = grpo_loss(
            logprobs,
            batch["old_logprobs"],
            batch["advantages"],
            mask,
            loss=config.loss,
            clip_ratio=config.clip_ratio,
            clip_ratio_high=config.clip_ratio_high,
            reference_logprobs=batch["reference_logprobs"] if is_in_loss else None,
            beta=config.beta if is_in_loss else 0.0,
            kl_kind=config.kl_kind,
            max_new_tokens=config.max_new_tokens,
        )
        entropy = (entropies.detach() * mask).sum() / mask.sum().clamp(min=1)
        return loss, {
            **{name: loss.new_tensor(value) for name, value in metrics.items() if name != "loss"},
            "entropy": entropy,  # fetched at the step's end: here it would wait for the device
        }

    # ---- what is said ----

    def token_views(self) -> list[View]:
        """The group of one prompt: what each response gained over its siblings, and how likely its tokens are.

        Of the first prompts the first whose responses differ in reward, at the first view; from then on the same one.
        REINFORCE compares with the responses to other prompts: where a prompt has one response, theirs are shown too.
        """
        dataset, rows = shown_rows(self)
        if self.config.loss == "reinforce":
            rows = rows[:1] if self.config.group_size > 1 else rows
        elif self.shown_prompt is not None:
            rows = range(self.shown_prompt, self.shown_prompt + 1)
        return views_of_responses(self, dataset, rows, self.series, self.choose_group)

    def choose_group(self, rollout: Rollout) -> Rollout:
        """The first group with spread, else the first of all."""
        if self.config.loss == "reinforce":
            return rollout
        group = int(has_spread(rollout.scores, rollout.samples).int().argmax())
        self.shown_prompt = rollout.rows[group * rollout.samples]
        return take(rollout, rows_of(rollout, [group]))

    def series(self, rollout: Rollout) -> dict[str, torch.Tensor]:
        """What is shown of each token, (N, R)."""
        self.judge(rollout)
        assert rollout.advantages is not None
        found = {"advantage": rollout.advantages, "logprob": rollout.logprobs}
        if rollout.reference_logprobs is not None:
            found["kl"] = rollout.logprobs - rollout.reference_logprobs
        return found

    def facts(self) -> dict[str, str]:
        config = self.config
        kind = "k1, in the reward" if config.loss in WITHOUT_CLIP else config.kl_kind
        divergence = f", beta {config.beta:g} ({kind})" if config.beta else ", no KL term"
        return {"loss": config.loss + divergence} | super().facts()

    def shape(self) -> dict[str, Any]:
        config = self.config
        down, up = clip_range(config.loss, config.clip_ratio, config.clip_ratio_high)
        return super().shape() | {
            "grpo": f"{config.loss}, beta {config.beta:g} {config.kl_kind}, clip {down:g} and {up:g}, "
            f"std {config.scale_by_std}, drop {config.drop_equal_groups}, overlong {config.overlong_buffer}"
        }

    # ---- what a checkpoint holds ----

    def extra_state(self) -> dict[str, Any]:
        return super().extra_state() | {"grpo": {"shown_prompt": self.shown_prompt}}

    def load_extra_state(self, record: dict[str, Any]) -> None:
        super().load_extra_state(record)
        self.shown_prompt = record.get("grpo", {}).get("shown_prompt")
