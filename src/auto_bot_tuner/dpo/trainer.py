"""Direct preference optimisation: of two answers to a prompt, make the better one likelier than it was, and the worse
one less likely.

The loop is the one that `sft/trainer.py` quotes. A row of it is a pair here, and a pair's loss needs four numbers: the
log-probability of both answers under the policy, and under the reference. Both answers go through one forward pass, in
which their prompt is computed once where the model allows it: the same numbers in less time.

What to look at: `reward_margin` and `accuracy` should rise, from 0 and one half. `chosen_logprobs` and
`rejected_logprobs` are told apart because the margin may also grow while both fall, the chosen one more slowly
(likelihood displacement). `kl` says how far the policy has gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.dpo import checks
from auto_bot_tuner.dpo.config import READ_BY, WITHOUT_REFERENCE, DPOConfig
from auto_bot_tuner.dpo.loss import dpo_loss
from auto_bot_tuner.dpo.mismatched import drift
from auto_bot_tuner.dpo.single_answers import Values, loss_of_answers, means_of_kinds
from auto_bot_tuner.dpo.stored_logprobs import StoredLogprobs, precomputed
from auto_bot_tuner.evaluation.engine import evaluation_mode
from auto_bot_tuner.training.batching import Batch, collate_groups, cut_by_tokens, share_between
from auto_bot_tuner.training.checks import check_no_dropout
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.logprobs import SequenceLogprobs
from auto_bot_tuner.training.loop import Trainer
from auto_bot_tuner.training.reference import (
    SAMPLED_VALUES,
    WORDS,
    are_equal,
    build_reference,
    choose_reference,
    weights_digest,
)
from auto_bot_tuner.training.token_views import View, views_of_groups

__all__ = ["DPOConfig", "DPOTrainer"]

Metrics = dict[str, torch.Tensor]


class DPOTrainer(Trainer):
    """Trains a policy on `PreferenceDataset` pairs with `dpo_loss`, or on its single answers with `kto_loss`.

    DPOTrainer(policy_model, reference_model, tokenizer, train_dataset, eval_dataset=None, config=None, callbacks=None);
    `reference_model=None` takes the reference that `config.reference` names. `train()` returns a summary, `evaluate()`
    the metrics of the evaluation rows.

    Raises:
        UsageError: policy, reference, data and settings contradict each other.
    """

    Config = DPOConfig
    config: DPOConfig

    def __init__(
        self,
        policy_model: nn.Module,
        reference_model: nn.Module | None,
        tokenizer: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        config: DPOConfig | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        config = config if config is not None else DPOConfig()
        checks.check_group_size(train_dataset, config.loss)
        if config.loss == "kto":
            checks.check_both_kinds(train_dataset)
        loss_without = config.loss if config.loss in WITHOUT_REFERENCE else ""
        self.reference_kind = choose_reference(policy_model, reference_model, config.reference, loss_without)
        # What the reference is made of: a resumed run must compare with the same.
        self.reference_digest = weights_digest(
            policy_model if reference_model is None else reference_model, SAMPLED_VALUES
        )
        super().__init__(policy_model, tokenizer, train_dataset, eval_dataset, config, callbacks)
        check_no_dropout(policy_model)
        # Whether policy and reference are the same model as long as nothing has been trained.
        self.starts_equal = reference_model is None or are_equal(policy_model, reference_model)
        self.reference = build_reference(self.reference_kind, policy_model, reference_model)
        self.stored: dict[int, StoredLogprobs] = {}  # by the data set's id, once they are computed
        self.reference_point = torch.zeros(())  # KTO's, of the present step

    def shape(self) -> dict[str, Any]:
        """As the loop's; and what the policy is compared with, by which loss."""
        config = self.config
        more = "".join(
            f", {name} {getattr(config, name):g}" for name, readers in READ_BY.items() if config.loss in readers
        )
        return super().shape() | {
            "loss": f"{config.loss}, beta {config.beta:g}{more}",
            "reference": f"{self.reference_kind} (weights {self.reference_digest})",
        }

    def facts(self) -> dict[str, str]:
        """The loss, and where the reference comes from."""
        words = WORDS[self.reference_kind]
        if self.reference_kind == "given":
            words += ", equal to the starting policy" if self.starts_equal else ", another one than the starting policy"
        return {"loss": f"{self.loss_in_words()}, dropout off", "reference": words}

    def loss_in_words(self) -> str:
        """The loss with every setting that it reads."""
        config = self.config
        read = [name for name, readers in READ_BY.items() if config.loss in readers]
        return ", ".join(
            [f"{config.loss}, beta {config.beta:g}", *(f"{name} {getattr(config, name):g}" for name in read)]
        )

    def build_module(self) -> nn.Module:
        """Log-probabilities of the answers' tokens."""
        return SequenceLogprobs(self.model)

    # ---- the reference's share ----

    def prepare(self) -> None:
        """Precomputed reference log-probabilities, of weights that training has not touched yet."""
        if self.reference_kind != "precomputed":
            return
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset is not None and id(dataset) not in self.stored:
                self.stored[id(dataset)] = precomputed(self, dataset)

    def collate(self, dataset: Any, rows: Sequence[int]) -> Batch:
        """Both answers of each pair, and what the reference said of them where that is known already."""
        batch = collate_groups(dataset, rows)
        if stored := self.stored.get(id(dataset)):
            batch.tensors["reference_logprobs"] = stored.of(rows or [0], batch["labels"])
        return batch

    def reference_logprobs(self, batch: Batch) -> torch.Tensor:
        """(S, T): log-probability of each trained token under the reference; of the policy there is none to compare."""
        if "reference_logprobs" in batch.tensors:
            return batch["reference_logprobs"]
        assert self.reference is not None
        with self.accelerator.autocast():  # as the policy computes: the same model gives the same numbers
            return self.reference.logprobs(batch)

    # ---- what a batch is worth ----

    def compute_loss(self, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        """`dpo_loss` or `kto_loss` of a micro-batch, with the log-probabilities of both sides beside its metrics."""
        reference = None if self.reference is None else self.reference_logprobs(batch)  # (S, T)
        policy = self.module(*(batch[name] for name in ("input_ids", "labels", "lengths", "shared")))  # (S, T)
        trained_tokens = (batch["labels"] != IGNORE_INDEX).sum(dim=1)  # (S,)
        extra = {} if reference is None else {"kl": kl_estimate(policy.detach(), reference)}
        if self.config.loss == "kto":
            assert reference is not None
            is_good = batch["scores"] > 0.5
            sums = policy.sum(dim=1), reference.sum(dim=1)
            loss, metrics = loss_of_answers(*sums, is_good, self.reference_point, self.config)
        else:
            loss, metrics = self.loss_of_pairs(policy.sum(dim=1), reference, trained_tokens)
        if reference is not None and self.state.step == 0 and self.starts_equal and batch.weight:
            apart = ((policy.detach() - reference).sum(dim=1) / trained_tokens).abs().max()
            preference_loss = metrics["loss"] - self.config.sft_weight * metrics.get("sft_loss", 0.0)
            checks.check_start(self, apart.item(), float(preference_loss))
        del metrics["loss"]
        # What is a tensor stays one until the step's end: fetching it here would wait for the device.
        return loss, {name: torch.as_tensor(value, device=loss.device) for name, value in metrics.items()} | extra

    def loss_of_pairs(
        self, policy: torch.Tensor, reference: torch.Tensor | None, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, Values]:
        """policy (S,), reference (S, T), lengths (S,) -> the loss; even sequences are chosen, odd ones rejected."""
        config = self.config
        chosen, rejected = policy[0::2], policy[1::2]  # (B,), (B,)
        loss, metrics = dpo_loss(
            chosen,
            rejected,
            None if reference is None else reference.sum(dim=1)[0::2],
            None if reference is None else reference.sum(dim=1)[1::2],
            config.beta,
            config.loss,
            label_smoothing=config.label_smoothing,
            simpo_gamma=config.simpo_gamma,
            sft_weight=config.sft_weight,
            chosen_lengths=lengths[0::2],
            rejected_lengths=lengths[1::2],
        )
        more: Values = {"chosen_logprobs": chosen.detach().mean(), "rejected_logprobs": rejected.detach().mean()}
        if config.sft_weight or config.loss == "orpo":
            more["sft_loss"] = -(chosen.detach() / lengths[0::2]).mean()
        return loss, {**metrics, **more}

    def describe(self, means: dict[str, float]) -> dict[str, float]:
        """Rows are pairs here, not tokens; KTO's sides are means over the good and over the bad answers."""
        means = {{"num_tokens": "num_rows"}.get(name, name): value for name, value in means.items()}
        return means_of_kinds(means) if self.config.loss == "kto" else means

    # ---- KTO's reference point ----

    def micro_batches(self, rows: Sequence[int]) -> list[Batch]:
        """As the loop's; for KTO the reference point of the whole step first, so that no cut changes it."""
        if self.config.loss == "kto":
            self.reference_point = drift(self, self.train_dataset, rows)
        return super().micro_batches(rows)

    def evaluate(self) -> dict[str, float]:
        """As the loop's; for KTO with one reference point for all evaluation rows."""
        self.prepare()
        if self.config.loss == "kto" and self.eval_dataset is not None:
            self.reference_point = drift(self, self.eval_dataset, range(len(self.eval_dataset)))
        return super().evaluate()

    # ---- what is shown ----

    @torch.no_grad()
    def token_views(self) -> list[View]:
        """How much likelier each token of the first answers is than under the reference, in nats; without a reference
        its log-probability."""

        def series(batch: Batch) -> Metrics:
            policy = self.accelerator.unwrap_model(self.module)
            with evaluation_mode(self.model), self.accelerator.autocast():
                logprobs = policy(*(batch[name] for name in ("input_ids", "labels", "lengths", "shared")))  # (S, T)
            if self.reference is None:
                return {"logprob": logprobs}
            return {"policy - reference": logprobs - self.reference_logprobs(batch)}

        return views_of_groups(self, series)

    # ---- shorthands ----

    def cuts(self, rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """This process's share of rows, cut by the token budget."""
        cuts = share_between(cut_by_tokens(rows, lengths, self.token_budget), lengths, self.processes)
        return cuts[self.rank :: self.processes]

    @property
    def precision(self) -> str:
        """Of the arithmetic: no (float32), bf16 or fp16."""
        return str(self.accelerator.mixed_precision)


def kl_estimate(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    r"""How far the policy has moved on these answers, in nats: the mean over answers of $\sum_t d_t^2 / 2$ (k2).

    With d = policy - reference (S, T). For answers that the reference would write it is the KL divergence to second
    order in d; for others, as rejected ones often are, no estimator knows it. k3, $e^d - 1 - d$, would be unbiased in
    the first case and explode in the second: one token that became e^7 times likelier would count a thousand nats.
    """
    return ((policy - reference) ** 2 / 2).sum(dim=1).mean()
