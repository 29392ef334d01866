"""Reward modelling: learn a score from judgements, so that anything can be judged later.

The loop is inherited (`training/loop.py`; `sft/trainer.py` tells it in ten lines). A row is here a *group*: one prompt
and its responses, a pair most often. All of a step's chosen and rejected sides go through the model in one forward:

    scores = self.module(input_ids, lengths, shared)           # (S,), at each sequence's last token
    chosen, rejected = scores[0::2], scores[1::2]
    loss, metrics = ranking_loss(chosen, rejected)             # weighted by groups: each prompt counts once

What to look at: `accuracy` on held-out rows beside `length_accuracy`, what a ruler would get; `reward_margin`, which
grows without end where the model is over-sure (fewer epochs, label smoothing). The loss starts near ln 2 = 0.69 or,
from a random head, some tenths above.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.evaluation.engine import evaluation_mode
from auto_bot_tuner.rlhf.checks import check_rows_serve, remarks_on
from auto_bot_tuner.rlhf.config import RewardModelConfig
from auto_bot_tuner.rlhf.length_rule import mean_score, share_longer_is_better
from auto_bot_tuner.rlhf.loss import kwise_loss, ranking_loss, regression_loss
from auto_bot_tuner.rlhf.reward_model import RewardModel
from auto_bot_tuner.rlhf.scoring import score_rows, up_to_the_end
from auto_bot_tuner.rlhf.usage import usage_of
from auto_bot_tuner.training.batching import Batch, collate_groups, in_order
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.final import save_final
from auto_bot_tuner.training.flat import hidden_states_at, make_flat
from auto_bot_tuner.training.loop import Trainer
from auto_bot_tuner.training.token_views import View, titles, views_of_groups
from auto_bot_tuner.training.weights import load_weights
from auto_bot_tuner.utils import saving
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.score_head import HEAD

CENTRING_ROWS = 1000  # training rows whose mean score becomes the zero point: its error is then 3 % of the spread


class RewardScores(nn.Module):
    """A reward model as the loop wants it: groups of sequences in, raw scores out, a shared prompt computed once."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model = model
        base = model.get_base_model()
        with quiet_libraries():
            self.is_flat = make_flat(base, base.get_input_embeddings().weight.shape[0])

    def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """Right-padded input_ids (S, T), lengths (S,), shared (S,) -> (S,)."""
        return self.model.raw_scores(input_ids, lengths, shared, self.is_flat)


class RewardModelTrainer(Trainer):
    """Trains a `RewardModel` on `RewardModelDataset` rows.

    RewardModelTrainer(model, tokenizer, train_dataset, eval_dataset=None, config=None, callbacks=None); `train()`
    returns a summary, `evaluate()` the metrics of the evaluation rows.
    """

    Config = RewardModelConfig
    config: RewardModelConfig
    model: RewardModel

    def __init__(
        self,
        model: RewardModel,
        tokenizer: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        config: RewardModelConfig | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        """As the loop's.

        Raises:
            UsageError: settings that contradict each other, or that these rows do not serve.
        """
        config = config if config is not None else RewardModelConfig()
        check_rows_serve(config, train_dataset, eval_dataset)
        if config.frozen_base:
            model.freeze_base()
        super().__init__(model, tokenizer, train_dataset, eval_dataset, config, callbacks)
        # A head without bias learns deviations from the mean: the mean itself is what centring takes out.
        self.mean_score = mean_score(train_dataset) if config.objective == "scores" else 0.0
        self.longer_is_better = 0.5 if config.objective == "scores" else share_longer_is_better(train_dataset)

    def shape(self) -> dict[str, Any]:
        config = self.config
        margin = ", with margins" if config.use_margin else ""
        settings = f"{margin}, centering {config.centering:g}, label smoothing {config.label_smoothing:g}"
        return super().shape() | {"objective": config.objective + settings}

    def train(self) -> dict[str, Any]:
        """As the loop's; afterwards the scores are centred on the training rows."""
        self.model.offset = 0.0  # of an earlier training, where there was one: it belongs to the weights of then
        return super().train()

    # ---- what a batch is worth ----

    def build_module(self) -> nn.Module:
        self.scores = RewardScores(self.model)
        return self.scores

    def collate(self, dataset: Any, rows: Sequence[int]) -> Batch:
        """Groups of sequences; each ends with its end token, also where the template writes more after it."""
        batch = collate_groups(dataset, rows)
        positions = torch.arange(batch["labels"].shape[1])
        trained = batch["labels"] != IGNORE_INDEX  # (S, T)
        batch.tensors["lengths"] = (positions * trained).amax(dim=1) + 1  # (S,)
        return batch

    def compute_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a micro-batch by `config.objective`, a mean over its groups."""
        config = self.config
        scores = self.module(batch["input_ids"], batch["lengths"], batch["shared"])  # (S,)
        smoothing = {"centering": config.centering, "label_smoothing": config.label_smoothing}
        if config.objective == "pairs":
            given = batch["scores"]
            margin = given[0::2] - given[1::2] if config.use_margin else 0.0  # (B,)
            loss, metrics = ranking_loss(scores[0::2], scores[1::2], margin, **smoothing)
        elif config.objective == "rankings":
            loss, metrics = kwise_loss(scores, batch["group"], batch["scores"], **smoothing)
        else:
            loss, metrics = regression_loss(scores, batch["scores"] - self.mean_score, batch["group"])
        return loss, {name: loss.new_tensor(value) for name, value in metrics.items() if name != "loss"}

    def describe(self, means: dict[str, float]) -> dict[str, float]:
        """Of scores, also the share of their variance that is explained: 0 is what the mean alone gets, 1 is all."""
        if "score_variance" in means:
            means["explained_variance"] = 1 - means["loss"] / max(means["score_variance"], 1e-12)
        return means

    def evaluate(self) -> dict[str, float]:
        """As the loop's, and `eval_length_accuracy`: what the rule "longer is better" gets right.

        (Or "shorter is better", where that holds on the training rows.) A reward model near it may have learnt length.
        """
        metrics = super().evaluate()
        if self.config.objective != "scores":
            longer = share_longer_is_better(self.eval_dataset)
            metrics["eval_length_accuracy"] = longer if self.longer_is_better >= 0.5 else 1 - longer
        return metrics

    def remarks(self, evaluation: dict[str, float]) -> list[str]:
        """What is odd about an evaluation."""
        if "eval_length_accuracy" not in evaluation:
            return []
        return remarks_on(evaluation, self.state.step == 0, self.state.step == self.total_steps)

    # ---- what is shown and saved ----

    @torch.no_grad()
    def samples(self) -> list[dict[str, Any]]:
        """The first evaluation rows: each response with its side (chosen, rejected …) and its score. (People wrote
        them: that they end says nothing.)"""
        dataset = self.eval_dataset if self.eval_dataset is not None else self.train_dataset
        found = []
        for row in range(min(self.config.num_samples, len(dataset))):
            group = dataset.group(row)
            sides = [up_to_the_end(ids, labels) for ids, labels in zip(group.input_ids, group.labels, strict=True)]
            prompt = self.question(dataset, row)
            # Without people's scores; where there is nothing else, told apart from the model's.
            names = [name.partition(" (")[0].replace("score", "judged") for name in titles(dataset, row, len(sides))]
            scores = score_rows(self.model, [ids.tolist() for ids in sides])
            for name, side, score in zip(names, sides, scores, strict=True):
                response = side[group.prompt_length :]
                shown = response[: self.config.sample_max_new_tokens]
                text = self.tokenizer.decode(shown, skip_special_tokens=True) + " …" * (len(shown) < len(response))
                found.append({"prompt": prompt, "side": name, "response": text, "ended": True, "score": score})
        return found

    def question(self, dataset: Any, row: int) -> str:
        """The prompt as it was asked, without the template's marks; of a data set of token ids alone, decoded."""
        if hasattr(dataset, "rows"):
            return str(dataset.rows[row].prompt[-1]["content"])
        group = dataset.group(row)
        return str(self.tokenizer.decode(group.input_ids[0][: group.prompt_length], skip_special_tokens=True))

    @torch.no_grad()
    def token_views(self) -> list[View]:
        """The score that the text would have if it ended at this token: where a response wins or loses. The last is
        its score."""
        base: Any = self.model.get_base_model()

        def series(batch: Batch) -> dict[str, torch.Tensor]:
            trained = batch["labels"] != IGNORE_INDEX  # (S, T)
            input_ids, lengths, shared = (batch[name] for name in ("input_ids", "lengths", "shared"))
            with evaluation_mode(self.model), self.accelerator.autocast():
                hidden = hidden_states_at(base, self.scores.is_flat, input_ids, lengths, trained, shared)  # (N, H)
            scores = getattr(base, HEAD)(hidden.float()).squeeze(-1) - self.model.offset  # (N,)
            return {"score": scores.new_zeros(trained.shape).masked_scatter(trained, scores)}

        return views_of_groups(self, series)

    @property
    def is_adapted(self) -> bool:
        return saving.is_adapted(self.model.model)

    @property
    def peak_learning_rate(self) -> float:
        if self.config.frozen_base and self.config.learning_rate is None:
            return self.config.HEAD_LEARNING_RATE
        return super().peak_learning_rate

    def facts(self) -> dict[str, str]:
        """What the rows are judged by, and the rule to beat."""
        if self.config.objective == "scores":
            return {"objective": f"scores, {self.mean_score:.4g} on average"}
        longer = f"the longer one is the better one in {self.longer_is_better:.0%}"
        return {"objective": self.config.objective, "length alone": longer}

    def save_weights(self, folder: Path) -> None:
        self.model.save_pretrained(folder, self.tokenizer)

    def load_weights(self, folder: Path) -> None:
        load_weights(self.model.model, folder)

    def save_final(self, folder: Path, metrics: dict[str, float]) -> None:
        """Centre the scores, then write final/."""
        self.model.offset = self.mean_raw_score()
        save_final(self, folder, metrics, self.model.model, usage_of(self.model, self.is_adapted))

    @torch.no_grad()
    def mean_raw_score(self) -> float:
        """The mean over training rows, a seeded sample where they are many; each group weighs once."""
        self.scores.eval()
        generator = torch.Generator().manual_seed(self.config.seed)
        sample = torch.randperm(len(self.lengths), generator=generator)[:CENTRING_ROWS].tolist()
        total = 0.0
        for places in in_order([self.lengths[row] for row in sample], self.config.eval_batch_size, 1, 0):
            batch = self.collate(self.train_dataset, [sample[place] for place in places])
            batch = batch.to(self.accelerator.device)
            scores = self.scores(batch["input_ids"], batch["lengths"], batch["shared"])
            total += sum(scores[batch["group"] == group].mean().item() for group in range(len(places)))
        return total / len(sample)
