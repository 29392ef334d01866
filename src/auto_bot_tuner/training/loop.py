r"""The one optimisation loop: draw a batch, turn it into a scalar, step downhill.

Two things differ between methods, and a method's `trainer.py` says just those: where batches come from (`batches`)
and what a batch is worth (`compute_loss`). All else is here, once.

One optimiser step takes a *list* of micro-batches and follows

    $$ g = \sum_i \frac{w_i}{W} \nabla L_i, \qquad W = \sum_i w_i $$

where $L_i$ is the mean loss of micro-batch i and $w_i$ its trained tokens (or pairs), W summed over all processes. So
the gradient is that of the mean over *all* trained tokens of the step, however they were cut: 8 x 1 == 4 x 2 ==
1 x 8 == two processes. (The usual `loss / accumulation_steps` lets a micro-batch of ten tokens weigh as much as one of
a thousand.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from auto_bot_tuner.training import checks, engine, run
from auto_bot_tuner.training.batching import (
    Batch,
    collate,
    cut_by_tokens,
    epoch_order,
    fingerprint,
    in_order,
    row_lengths,
    share_between,
)
from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.events import Callback
from auto_bot_tuner.training.final import save_final
from auto_bot_tuner.training.interrupt import stop_requests
from auto_bot_tuner.training.logprobs import CausalNLL, causal_model
from auto_bot_tuner.training.optim import build_optimizer, learning_rate_at
from auto_bot_tuner.training.samples import sample_responses
from auto_bot_tuner.training.schedule import Schedule
from auto_bot_tuner.training.state import TrainingState
from auto_bot_tuner.training.weights import load_weights
from auto_bot_tuner.utils import saving
from auto_bot_tuner.utils.errors import UserError


class Trainer(Schedule):
    """The loop. A method's trainer inherits it and says what a batch is worth."""

    Config: ClassVar[type[TrainingConfig]] = TrainingConfig

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        config: TrainingConfig | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        """Nothing is computed yet: `train()` and `evaluate()` do the work.

        Args:
            model: a transformers or peft causal language model; what requires a gradient is trained, in float32.
            tokenizer: its tokenizer, saved with every checkpoint.
            train_dataset: `dataset[i]` gives 1-D long tensors `input_ids` and `labels`, unpadded.
            eval_dataset: likewise; without one nothing is evaluated.
            config: the settings; the defaults where None.
            callbacks: each is called with every `Event`.
        """
        self.model, self.tokenizer = model, tokenizer
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.config = config if config is not None else self.Config()
        self.callbacks = list(callbacks or [])
        self.lengths = row_lengths(train_dataset)
        self.accelerator = engine.build_accelerator(self.config, model)
        engine.prepare_model(model, self.config)
        # What Accelerate runs: a module whose forward is the whole computation of a batch.
        self.module, self.optimizer = engine.wrap(
            self.accelerator, self.build_module(), self.build_optimizer, self.config
        )
        self.state = TrainingState(shape=self.shape())
        self.skipped_in_a_row = 0
        self.has_moved = False  # whether a step of this session has changed a weight

    def shape(self) -> dict[str, Any]:
        """What a resumed run must have in common with its checkpoint; otherwise it would be another run."""
        trained = self.trained_parameters().values()
        return {
            "data": fingerprint(self.train_dataset, self.lengths),
            "rows_per_step": self.rows_per_step,
            "seed": self.config.seed,
            "trained_weights": f"{sum(p.numel() for p in trained):,} in {len(trained)} tensors",
            # A constant learning rate may go on for longer; any other falls by the number of steps.
            "total_steps": 0 if self.config.lr_schedule == "constant" else self.total_steps,
            "learning_rate": f"{self.peak_learning_rate:g}, {self.config.lr_schedule}, warm-up {self.config.warmup:g}",
        }

    # ---- what a method says ----

    def build_module(self) -> nn.Module:
        """The module that `compute_loss` calls."""
        return CausalNLL(self.model)

    def build_optimizer(self) -> torch.optim.Optimizer:
        """AdamW over what is trained. A group may have an `lr_scale`: its share of the learning rate, if not all."""
        return build_optimizer(self.model.named_parameters(), self.config)

    def check_data(self) -> None:
        """Before the run: the rows can be learnt from, and the model can read them.

        Raises:
            UserError: they cannot, or it cannot.
        """
        vocabulary = causal_model(self.model).get_input_embeddings().weight.shape[0]
        checks.check_rows(self.train_dataset, vocabulary)
        checks.check_context([self.train_dataset, self.eval_dataset], self.model)

    def compute_loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean loss of a micro-batch over its weight, and metrics that are means over it too."""
        raise NotImplementedError

    def describe(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics to report, from the means over all micro-batches."""
        return means

    def prepare(self) -> None:
        """What is computed once, from the weights that the run starts from: a checkpoint is loaded after this."""

    def batches(self) -> Iterator[list[Batch]]:
        """For each optimiser step from the present one on: the micro-batches of this process.

        An empty list says, on every process, that this step has nothing to learn from: it is skipped and counted.
        """
        while self.state.step < self.total_steps:
            epoch, index = divmod(self.state.step, self.steps_per_epoch)
            order = epoch_order(len(self.lengths), self.config.seed, epoch)
            yield self.micro_batches(order[index * self.rows_per_step : (index + 1) * self.rows_per_step])

    def micro_batches(self, rows: Sequence[int]) -> list[Batch]:
        """This process's share of one step's rows, cut by length."""
        cuts = share_between(cut_by_tokens(rows, self.lengths, self.token_budget), self.lengths, self.processes)
        return [self.collate(self.train_dataset, cut) for cut in cuts[self.rank :: self.processes]]

    def collate(self, dataset: Any, rows: Sequence[int]) -> Batch:
        """Rows of a data set as one forward pass."""
        return collate(dataset, rows)

    def samples(self) -> list[dict[str, Any]]:
        """What is shown of the model at each evaluation: its answers to the fixed prompts."""
        return sample_responses(self)

    def token_views(self) -> list[dict[str, Any]]:
        """A few rows token by token, for heat-maps: `training/token_views.py`. Called on the main process alone, so
        nothing in it may wait for another process."""
        return []

    def observe(self, means: dict[str, float]) -> None:
        """Called after every step with its means over all micro-batches: for methods that react to them."""

    def verdicts(self, metrics: dict[str, float]) -> list[str]:
        """What a person should be told about the metrics just logged, in plain words, with what to do."""
        return []

    def remarks(self, evaluation: dict[str, float]) -> list[str]:
        """What a person should be told about an evaluation, in plain words, with what to do."""
        return []

    def objective(self, evaluation: dict[str, float]) -> float:
        """What makes an evaluation the best so far: the lower the better."""
        return evaluation["eval_loss"]

    def facts(self) -> dict[str, str]:
        """What else is worth a line before the run, and in the card of the trained model."""
        return {}

    # ---- the loop ----

    def train(self) -> dict[str, Any]:
        """Train from the start or, with `config.resume`, from the newest checkpoint.

        Returns:
            A summary: `steps`, `tokens`, `seconds`, `tokens_per_second`, the last metrics and evaluation, and `final`,
            the folder of the trained model.

        Raises:
            UserError: the run cannot work, diverged, or could not save.
            Interrupted: Ctrl-C or SIGTERM, after a checkpoint was saved.
        """
        self.check_data()
        with stop_requests() as stop, run.Run(self) as this_run:
            started, tokens_before = time.perf_counter(), self.state.tokens  # of this session, where it is resumed
            if self.state.step == 0 and self.state.evaluated_step is None:
                this_run.evaluate()  # the baseline; and if evaluation fails, it fails now
            for micro_batches in () if this_run.is_stale() else self.batches():  # it may have been resumed
                metrics = self.update(micro_batches)
                this_run.note_update(metrics)
                if self.is_due(self.config.eval_steps) or self.state.step == self.total_steps:
                    this_run.evaluate()
                if self.is_due(self.config.save_steps):
                    this_run.save()
                if self.on_any_process(bool(stop)):
                    this_run.interrupt(stop.exit_code)
                if this_run.is_stale():
                    break
            summary = this_run.finish()
        seconds = time.perf_counter() - started
        per_second = (self.state.tokens - tokens_before) / seconds
        return summary | {"seconds": seconds, "tokens": self.state.tokens, "tokens_per_second": per_second}

    def update(self, micro_batches: list[Batch]) -> dict[str, float] | None:
        """One optimiser step over its micro-batches. Returns the metrics since the last log, where one is due."""
        progress = {"epoch": (self.state.step + 1) / self.steps_per_epoch}
        if micro_batches:
            progress |= self.learn_from(micro_batches)
        else:
            self.state.note_skipped_step()
        if not (self.is_due(self.config.logging_steps) or self.state.step in (1, self.total_steps)):
            return None
        return {**self.describe(self.state.close_window()), **progress}

    def learn_from(self, micro_batches: list[Batch]) -> dict[str, float]:
        """Sum the gradients of the micro-batches and step. Returns the gradient's norm and the learning rate."""
        started = time.perf_counter()
        self.module.train()
        weight, tokens = self.total([sum(b.weight for b in micro_batches), sum(b.tokens for b in micro_batches)])
        if weight == 0:
            rows = [row for batch in micro_batches for row in batch.rows]
            raise UserError(f"step {self.state.step + 1} has no trained token (rows {rows[:4]}…): leave such rows out")
        sums: dict[str, torch.Tensor] = {}
        for batch in micro_batches:
            is_last = batch is micro_batches[-1]
            with engine.waits(self.accelerator, self.module, is_last):
                loss, metrics = self.compute_loss(batch.to(self.accelerator.device))
                # w_i / W of the gradient. DDP takes the mean over processes where a sum is meant: give it back.
                scaled = loss * (batch.weight / weight * self.processes)
                engine.backward(self.accelerator, self.optimizer, scaled, is_last)
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() * batch.weight

        totals = dict(zip(sums, self.total(torch.stack([v.float() for v in sums.values()]).tolist()), strict=True))
        grad_norm, lr = self.step_downhill(totals["loss"] / weight, micro_batches)
        self.state.note_step({"weight": weight, **totals}, int(tokens), time.perf_counter() - started)
        self.observe({name: value / weight for name, value in totals.items()})
        return {"grad_norm": grad_norm, "learning_rate": lr}

    def step_downhill(self, loss: float, micro_batches: list[Batch]) -> tuple[float, float]:
        """Clip the gradient, set the learning rate, step. Returns the gradient's norm and the learning rate.

        The norm is that before clipping: the number to watch.
        """
        lr = self.peak_learning_rate * learning_rate_at(
            self.state.step, self.total_steps, self.config.warmup, self.config.lr_schedule
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        parameters = self.trained_parameters()
        norm = self.clip_gradients(list(parameters.values()))
        # fp16's loss scale is found by overflowing: there a gradient may be infinite, and its step is skipped.
        norm_to_check = 0.0 if self.accelerator.scaler is not None else norm
        rows = [row for batch in micro_batches for row in batch.rows]
        checks.check_finite(loss, norm_to_check, self.state.step, rows, lr)
        first_move = None if self.has_moved else checks.MoveCheck(parameters)
        self.optimizer.step()
        if self.accelerator.optimizer_step_was_skipped:  # fp16 looks for its loss scale; it may not look for ever
            self.skipped_in_a_row += 1
            checks.check_skipped(self.skipped_in_a_row)
        else:
            self.skipped_in_a_row = 0
            if first_move is not None:
                first_move.check()
            self.has_moved = True
        self.optimizer.zero_grad(set_to_none=True)
        return norm, lr

    def clip_gradients(self, parameters: list[nn.Parameter]) -> float:
        """Scale the gradient down to `max_grad_norm`, where it is longer. Returns its norm before that."""
        largest = self.config.max_grad_norm or math.inf
        return engine.gradient_norm(self.accelerator, self.optimizer, parameters, largest)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Metrics over the evaluation rows, each a mean over all their trained tokens, with the prefix `eval_`.

        Raises:
            UserError: there is no evaluation data.
        """
        if self.eval_dataset is None:
            raise UserError("there is no evaluation data: give the trainer an eval_dataset")
        self.module.eval()
        lengths = row_lengths(self.eval_dataset)
        sums: dict[str, float] = {}
        weight = 0.0
        for rows in in_order(lengths, self.config.eval_batch_size, self.processes, self.rank):
            batch = self.collate(self.eval_dataset, rows)
            loss, metrics = self.compute_loss(batch.to(self.accelerator.device))
            weight += batch.weight
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.item() * batch.weight
        *totals, weight = self.total([*sums.values(), weight])
        if weight == 0:
            raise UserError("the evaluation rows hold no trained token: give other rows, or --eval-fraction 0")
        means = self.describe({name: value / weight for name, value in zip(sums, totals, strict=True)})
        return {f"eval_{name}": value for name, value in means.items()}

    # ---- what is trained ----

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    # ---- what a checkpoint holds ----

    def save_weights(self, folder: Path) -> None:
        """A Hugging Face folder that `chat`, `evaluate` and `--model` open like any other."""
        saving.save_weights(self.model, self.tokenizer, folder)

    def load_weights(self, folder: Path) -> None:
        load_weights(self.model, folder)

    def save_final(self, folder: Path, metrics: dict[str, float]) -> None:
        """final/, for others to use, with its card."""
        save_final(self, folder, metrics)

    def extra_state(self) -> dict[str, Any]:
        """More for trainer_state.json: here fp16's loss scale, in other methods what they carry from step to step."""
        return {"loss_scale": self.accelerator.scaler.state_dict()} if self.accelerator.scaler is not None else {}

    def load_extra_state(self, record: dict[str, Any]) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(record["loss_scale"])
