"""A policy and a value network, trained side by side: what PPO's two networks are to the loop.

One module, since Accelerate's wrappers act on one forward; one optimiser, whose groups share no weight; gradients that
are clipped apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.rlhf.value_network import SequenceValues, ValueNetwork
from auto_bot_tuner.rollouts.minibatches import SEQUENCES, at_responses
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.trainer import OnPolicyTrainer
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.logprobs import CausalNLL, Entropy, SequenceLogprobs
from auto_bot_tuner.training.optim import build_optimizer


class PolicyAndValue(nn.Module):
    """What the policy and the value network say of the same sequences, and the policy of SFT rows."""

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


class PolicyAndValueTrainer(OnPolicyTrainer):
    """An on-policy trainer whose `value_network` (set before the loop's `__init__`) learns beside the policy."""

    config: PPOConfig
    value_network: ValueNetwork

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

    # ---- what they say of a rollout ----

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

    # ---- what a checkpoint holds ----

    def save_weights(self, folder: Path) -> None:
        """As the others', and the value network."""
        super().save_weights(folder)
        self.value_network.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        super().load_weights(folder)
        self.value_network.load_weights(folder)
