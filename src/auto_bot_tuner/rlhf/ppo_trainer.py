"""PPO with a learned reward: the policy writes, a reward model scores, and what beats expectation becomes likelier.

Four models: the *policy* and the *value network* are trained, the *reward model* and the *reference* are frozen. How a
rollout is written and used is told in `rollouts/trainer.py`; what PPO adds fits on a page:

    scores = reward - penalty where it did not end                                  # usable_scores
    rewards = scores at the last token - kl_coefficient * (log pi - log pi_ref)     # 4 token_rewards
    values = value_network(prompt + response)                                       # 5 before each token
    advantages, returns = compute_gae(rewards, values, gamma, lambda, mask)         # 6, then whitened
    loss = policy_loss + value_loss + entropy_bonus                                 # a page of formulas: `ppo_loss.py`

What to look at: `reward` should rise and `kl` with it, in proportion; `explained_variance` should rise above 0 and
`eos_rate` stay near 1. The loss says nothing: of an on-policy method it starts near 0 and stays there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.rlhf.kl_controller import AdaptiveKL
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
from auto_bot_tuner.rlhf.value_network import SequenceValues, ValueNetwork
from auto_bot_tuner.rollouts.minibatches import SEQUENCES, at_responses
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer
from auto_bot_tuner.rollouts.views import views_of_responses
from auto_bot_tuner.training import engine
from auto_bot_tuner.training.batching import Batch, collate, epoch_order, row_lengths
from auto_bot_tuner.training.checks import check_no_dropout
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.logprobs import CausalNLL, Entropy, SequenceLogprobs
from auto_bot_tuner.training.optim import build_optimizer
from auto_bot_tuner.training.token_views import View
from auto_bot_tuner.utils.errors import UsageError

__all__ = ["PPOConfig", "PPOTrainer"]

IMITATED = ("sft_input_ids", "sft_labels", "sft_lengths")
# In units of reward. A first KL of 1e-6 is rounding and no reward; whitened, and divided by its own size in Adam, it
# would be learnt from as if it were one.
ROUNDING = 1e-5


class PolicyAndValue(nn.Module):
    """Both trained networks as one module, since Accelerate's wrappers act on one forward."""

    def __init__(self, policy: nn.Module, value_network: ValueNetwork, temperature: float, entropy: Entropy) -> None:
        super().__init__()
        self.policy, self.values = SequenceLogprobs(policy, temperature), SequenceValues(value_network)
        self.imitation = CausalNLL(policy)
        self.entropy: Entropy = entropy
        self.is_flat = self.policy.is_flat

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        lengths: torch.Tensor,
        shared: torch.Tensor,
        imitated: Sequence[torch.Tensor] = (),
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sequences (S, T) -> log-probabilities, entropies and values of their trained tokens, (S, T) each.

        `imitated`: input_ids, labels, lengths of SFT rows; their summed negative log-likelihood comes last, else 0.
        """
        logprobs, entropies = self.policy.with_entropies(input_ids, labels, lengths, shared, self.entropy)
        values = self.values(input_ids, labels, lengths, shared)
        nll = self.imitation(*imitated)[0] if imitated else logprobs.new_zeros(())
        return logprobs, entropies, values, nll


class PPOTrainer(OnPolicyTrainer):
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

    # ---- what is trained ----

    def build_module(self) -> nn.Module:
        entropy: Entropy = "trained" if self.config.entropy_coefficient else "measured"
        return PolicyAndValue(self.model, self.value_network, self.config.temperature, entropy)

    def build_optimizer(self) -> torch.optim.Optimizer:
        """One AdamW whose groups share no weight: two optimisers in one, the value network's at its own rate."""
        optimizer = build_optimizer(self.model.named_parameters(), self.config)
        value_rate = self.config.value_learning_rate or self.peak_learning_rate
        for group in build_optimizer(self.value_network.named_parameters(), self.config).param_groups:
            optimizer.add_param_group({**group, "lr_scale": value_rate / self.peak_learning_rate})
        return optimizer

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The policy's, and the value network's under `value.`."""
        of_value = {f"value.{name}": p for name, p in self.value_network.trained_parameters().items()}
        return super().trained_parameters() | of_value

    def clip_gradients(self, parameters: list[nn.Parameter]) -> float:
        """Each network by itself: a large gradient of one must not shrink the other's step.

        Returns the policy's norm; the value network's where that is no number, which must stop the run as well.
        """
        self.accelerator.unscale_gradients()
        limit = self.config.max_grad_norm or math.inf
        of_value = list(self.value_network.trained_parameters().values())
        others = {id(p) for p in of_value}
        value_norm = float(nn.utils.clip_grad_norm_(of_value, limit))
        norm = float(nn.utils.clip_grad_norm_([p for p in parameters if id(p) not in others], limit))
        return norm if math.isfinite(value_norm) else value_norm

    # ---- steps 3 to 6 of a rollout ----

    def policy_logprobs(self, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = self.accelerator.unwrap_model(self.module).policy(*(batch[name] for name in SEQUENCES))
        return found

    def foresee(self, rollout: Rollout, rows: Sequence[int], batch: Batch) -> None:
        """Values before each token of these responses."""
        if rollout.values is None:
            rollout.values = torch.zeros(rollout.logprobs.shape)
        with self.accelerator.autocast():
            values = self.accelerator.unwrap_model(self.module).values(*(batch[name] for name in SEQUENCES))
        rollout.values[rows] = at_responses(values, batch["labels"], rollout.responses.shape[1]).cpu()

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

        return views_of_responses(self, 2, series)

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
            metrics["sft_loss"] = float(batch["sft_scale"] * nll.detach()) / config.sft_weight
        del metrics["explained_variance"]  # of a micro-batch it is no mean; the rollout's is in the log
        return loss, {name: loss.new_tensor(value) for name, value in metrics.items()}

    def observe(self, means: dict[str, float]) -> None:
        """Leave the rest of the rollout where the policy has moved too far from the one that wrote it."""
        limit = self.config.early_stop_kl
        self.is_stopped = self.is_stopped or (limit > 0 and means["approx_kl"] > limit)

    # ---- imitation beside it ----

    def minibatch(self, rollout: Rollout, epoch: int, index: int) -> list[Batch]:
        """As the others'; with SFT rows spread over the micro-batches, as many as the step has prompts."""
        batches = super().minibatch(rollout, epoch, index)
        if batches and self.sft_dataset is not None:
            self.add_imitation(batches)
        return batches

    def add_imitation(self, batches: list[Batch]) -> None:
        """Give each micro-batch its share of SFT rows, scaled so that a step adds sft_weight x the mean over them.

        The loop weighs micro-batch i by w_i / W. So that summed log-likelihoods come out as a mean over the step's
        n trained SFT tokens, its share carries sft_weight · W / (w_i · n).
        """
        rows = len(row_lengths(self.sft_dataset))
        per_epoch = max(1, rows // self.rows_per_step)
        epoch, place = divmod(self.state.step, per_epoch)
        order = epoch_order(rows, self.config.seed, epoch)[
            place * self.rows_per_step : (place + 1) * self.rows_per_step
        ]
        mine = order[self.rank :: self.processes]
        # An empty batch would drop its share: it gets none, yet takes part, as processes must sum the same figures.
        filled = [batch for batch in batches if batch.weight]
        dealt = {id(batch): mine[i :: len(filled)] for i, batch in enumerate(filled)}
        shares = [collate(self.sft_dataset, dealt.get(id(batch), [])) for batch in batches]
        weight, tokens = self.total([sum(b.weight for b in batches), sum(share.weight for share in shares)])
        for batch, share in zip(batches, shares, strict=True):
            scale = self.config.sft_weight * weight / (batch.weight * tokens) if share.weight else 0.0
            found = [share["input_ids"], share["labels"], share["lengths"], torch.tensor(scale)]
            batch.tensors |= dict(zip((*IMITATED, "sft_scale"), found, strict=True))

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

    def save_weights(self, folder: Path) -> None:
        """As the others', and the value network."""
        super().save_weights(folder)
        self.value_network.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        super().load_weights(folder)
        self.value_network.load_weights(folder)

    def extra_state(self) -> dict[str, Any]:
        more = {"kl": self.kl.state_dict(), "deviation": self.deviation.state_dict()}
        return super().extra_state() | {"ppo": more}

    def load_extra_state(self, record: dict[str, Any]) -> None:
        super().load_extra_state(record)
        self.kl.load_state_dict(record["ppo"]["kl"])
        self.deviation.load_state_dict(record["ppo"]["deviation"])
