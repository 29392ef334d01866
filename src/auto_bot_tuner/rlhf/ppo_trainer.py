"""PPO with a learned reward: the policy writes, a reward model scores, and what beats expectation becomes likelier.

Four models: the *policy* and the *value network* are trained (`policy_and_value.py`), the *reward model* and the
*reference* are frozen. How a rollout is written and used is told in `rollouts/trainer.py`; what PPO adds fits on a
page:

    scores = reward - penalty where it did not end                                  # usable_scores
    rewards = scores at the last token - kl_coefficient * (log pi - log pi_ref)     # 4 token_rewards
    values = value_network(prompt + response)                                       # 5 before each token
    advantages, returns = compute_gae(rewards, values, gamma, lambda, mask)         # 6, then whitened
    loss = policy_loss + value_loss + entropy_bonus                                 # a page of formulas: `ppo_loss.py`

What to look at: `reward` should rise and `kl` with it, in proportion; `explained_variance` should rise above 0 and
`eos_rate` stay near 1. The loss says nothing: of an on-policy method it starts near 0 and stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.rlhf.imitation import IMITATED, add_imitation
from auto_bot_tuner.rlhf.kl_controller import AdaptiveKL
from auto_bot_tuner.rlhf.policy_and_value import PolicyAndValueTrainer
from auto_bot_tuner.rlhf.ppo_loss import (
    compute_gae,
    entropy_bonus,
    kl_penalty,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from auto_bot_tuner.rlhf.running_scale import RunningDeviation
from auto_bot_tuner.rlhf.value_network import ValueNetwork
from auto_bot_tuner.rollouts.minibatches import SEQUENCES, at_responses
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.views import views_of_responses
from auto_bot_tuner.training import engine
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.checks import check_no_dropout
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.token_views import View, shown_rows
from auto_bot_tuner.utils.errors import UsageError

__all__ = ["PPOConfig", "PPOTrainer"]

# In units of reward. A first KL of 1e-6 is rounding and no reward; whitened, and divided by its own size in Adam, it
# would be learnt from as if it were one.
ROUNDING = 1e-5


class PPOTrainer(PolicyAndValueTrainer):
    """Trains a policy against a reward by PPO, and the value network beside it.

    PPOTrainer(policy, value_network, reward_model, reference_model, tokenizer, prompt_dataset, eval_dataset=None,
    config=None, callbacks=None); `reference_model=None` takes the reference that `config.reference` names, and
    `reward_model` may be any reward source. `train()` returns a summary, `evaluate()` the metrics of one sampled
    response to each evaluation prompt.

    Raises:
        UsageError: models and settings contradict each other.
    """

    Config = PPOConfig
    config: PPOConfig

    def __init__(
        self,
        policy: nn.Module,
        value_network: ValueNetwork,
        reward_model: Any,
        reference_model: nn.Module | None,
        tokenizer: Any,
        prompt_dataset: Any,
        eval_dataset: Any = None,
        config: PPOConfig | None = None,
        callbacks: Sequence[Callback] | None = None,
        *,
        sft_dataset: Any = None,
    ) -> None:
        """`sft_dataset`: an `InstructionDataset` to imitate beside PPO, where `config.sft_weight` is set."""
        config = config if config is not None else PPOConfig()
        if (sft_dataset is None) == (config.sft_weight > 0):
            raise UsageError("sft_weight weighs the rows of sft_dataset: give both, or none")
        self.value_network, self.sft_dataset = value_network, sft_dataset
        engine.prepare_model(value_network, config)
        check_no_dropout(value_network)
        self.kl = AdaptiveKL(config.kl_coefficient, config.kl_target, config.kl_horizon)
        self.deviation = RunningDeviation()
        super().__init__(
            policy, reward_model, reference_model, tokenizer, prompt_dataset, eval_dataset, config, callbacks
        )

    def needs_reference(self, config: Any) -> bool:
        """Also where it costs nothing to leave it: the distance is the first thing to look at."""
        return True

    # ---- steps 4 to 6 of a rollout ----

    def judge(self, rollout: Rollout) -> None:
        """Rewards per token, advantages, returns; then the price of divergence for the next rollout."""
        self.appraise(rollout)
        assert rollout.advantages is not None and rollout.reference_logprobs is not None
        if self.config.whiten_advantages:
            rollout.advantages = whiten(rollout.advantages, self.loss_mask(rollout))
        _, divergence = kl_penalty(rollout.logprobs, rollout.reference_logprobs, rollout.mask)
        self.window.setdefault("kl_coefficient", []).append(self.kl.coefficient)
        self.kl.update(divergence["kl"], len(rollout.rows))

    def appraise(self, rollout: Rollout) -> None:
        """Rewards per token, and advantages and returns in their unit."""
        assert rollout.values is not None and rollout.reference_logprobs is not None
        rollout.scores = self.usable_scores(rollout)
        rollout.rewards = token_rewards(
            rollout.scores, rollout.logprobs, rollout.reference_logprobs, rollout.mask, self.kl.coefficient
        )
        rollout.advantages, rollout.returns = compute_gae(
            rollout.rewards, rollout.values, self.config.gamma, self.config.gae_lambda, rollout.mask
        )

    def token_views(self) -> list[View]:
        """What PPO makes of each token of the first responses; advantages in the unit of the reward, not whitened."""

        def series(rollout: Rollout) -> dict[str, torch.Tensor]:
            deviation = self.deviation.state_dict()  # that of the training scores
            try:
                self.appraise(rollout)
            finally:
                self.deviation.load_state_dict(deviation)
            assert rollout.rewards is not None and rollout.values is not None
            assert rollout.advantages is not None and rollout.reference_logprobs is not None
            return {
                "reward": rollout.rewards,
                "value": rollout.values,
                "advantage": rollout.advantages,
                "kl": rollout.logprobs - rollout.reference_logprobs,
                "logprob": rollout.logprobs,
            }

        dataset, rows = shown_rows(self)
        return views_of_responses(self, dataset, rows[:2], series)

    def teaches(self, rollout: Rollout) -> torch.Tensor:
        """(prompts,) bool: those with an advantage; none where all of the rollout came as foreseen.

        So it does where no reward ever comes, and the values say 0.
        """
        assert rollout.values is not None and rollout.returns is not None and rollout.advantages is not None
        if self.config.entropy_coefficient or self.sft_dataset is not None:
            return self.counts(rollout)
        mask, surprise = self.loss_mask(rollout), rollout.returns - rollout.values  # (N, R) each
        is_foreseen = not bool((surprise.abs() > ROUNDING)[mask].any())
        return self.of_any_token(rollout, mask & ((rollout.advantages != 0) | (surprise != 0))) & (not is_foreseen)

    def scaled(self, scores: torch.Tensor) -> torch.Tensor:
        """With `scale_rewards`, divided by the deviation of all scores so far."""
        if not self.config.scale_rewards:
            return scores
        self.deviation.update(scores)
        return scores / self.deviation.value

    # ---- what a batch is worth ----

    def weight_of(self, mask: torch.Tensor) -> float:
        """Tokens: PPO's losses are means over them."""
        return int(mask.sum())

    def compute_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Policy loss, value loss and entropy bonus of a micro-batch: means over its response tokens."""
        config, mask, width = self.config, batch["mask"], batch["mask"].shape[1]
        imitated = [batch[name] for name in IMITATED if name in batch.tensors]
        *per_token, nll = self.module(*(batch[name] for name in SEQUENCES), imitated)
        logprobs, entropies, values = (at_responses(x, batch["labels"], width) for x in per_token)  # (S, R)
        self.check_ratio(logprobs, batch)
        of_policy, metrics = policy_loss(logprobs, batch["old_logprobs"], batch["advantages"], mask, config.clip_ratio)
        of_value, value_metrics = value_loss(values, batch["values"], batch["returns"], mask, config.value_clip)
        of_entropy, entropy_metrics = entropy_bonus(entropies, mask, config.entropy_coefficient)
        # The networks share no trained weight, and Adam divides each gradient by its own size: a coefficient before
        # the value loss would change nothing. Its learning rate does.
        loss = of_policy + of_value + of_entropy
        metrics |= value_metrics | entropy_metrics
        if imitated:
            loss = loss + batch["sft_scale"] * nll
        del metrics["explained_variance"]  # of a micro-batch it is no mean; the rollout's is in the log
        found = {name: loss.new_tensor(value) for name, value in metrics.items()}
        if imitated:
            found["sft_loss"] = batch["sft_scale"] * nll.detach() / config.sft_weight
        return loss, found

    def observe(self, means: dict[str, float]) -> None:
        """Leave the rest of the rollout where the policy has moved too far from the one that wrote it."""
        limit = self.config.early_stop_kl
        self.is_stopped = self.is_stopped or (limit > 0 and means["approx_kl"] > limit)

    def minibatch(self, rollout: Rollout, epoch: int, index: int) -> list[Batch]:
        """As the others'; with SFT rows spread over the micro-batches, as many as the step has prompts."""
        batches = super().minibatch(rollout, epoch, index)
        if batches and self.sft_dataset is not None:
            self.add_imitation(batches)
        return batches

    def add_imitation(self, batches: list[Batch]) -> None:
        add_imitation(self, batches, self.sft_dataset, self.config.sft_weight)

    # ---- what is said and saved ----

    def facts(self) -> dict[str, str]:
        config = self.config
        weights = sum(p.numel() for p in self.value_network.trained_parameters().values())
        price = f"{config.kl_coefficient:g} a nat"
        if config.kl_target is not None:
            price += f", moved until responses are {config.kl_target:g} nats away"
        return super().facts() | {"value network": f"{weights:,} trained weights", "divergence": price}

    def shape(self) -> dict[str, Any]:
        config = self.config
        return super().shape() | {
            "ppo": f"kl {config.kl_coefficient:g} to {config.kl_target}, gamma {config.gamma:g}, lambda "
            f"{config.gae_lambda:g}, clip {config.clip_ratio:g} and {config.value_clip:g}, whiten "
            f"{config.whiten_advantages}, entropy {config.entropy_coefficient:g}, early stop {config.early_stop_kl:g}, "
            f"sft {config.sft_weight:g}, scale {config.scale_rewards}"
        }

    def extra_state(self) -> dict[str, Any]:
        more = {"kl": self.kl.state_dict(), "deviation": self.deviation.state_dict()}
        return super().extra_state() | {"ppo": more}

    def load_extra_state(self, record: dict[str, Any]) -> None:
        super().load_extra_state(record)
        self.kl.load_state_dict(record["ppo"]["kl"])
        self.deviation.load_state_dict(record["ppo"]["deviation"])
