"""run.json: what a run was, on one page that needs no code of ours to be read.

Written when the run starts, at each evaluation and save, and when it ends, however it ends. A status that still says
running in a folder that nobody writes to belongs to a run that was killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from auto_bot_tuner.rollouts.config import OnPolicyConfig
from auto_bot_tuner.training.batching import row_lengths, sequences_of
from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.durable import write_whole
from auto_bot_tuner.training.hardware import machine, versions
from auto_bot_tuner.training.lineage import RUN_FILE, config_of, line_of_run, read_record, short
from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.training.optim import num_warmup_steps
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.strict_yaml import read_yaml

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

Status = Literal["running", "interrupted", "finished", "failed"]
HASHED_ROWS = 50_000  # of a data set; of more, this many spread over it, and the lengths of all


class Record:
    """The run.json of a trainer's folder."""

    def __init__(self, trainer: Trainer, is_resumed: bool) -> None:
        self.trainer, self.folder = trainer, Path(trainer.config.output_dir)
        earlier = read_record(self.folder) if is_resumed else {}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.started: str = earlier.get("started", now)
        self.seconds_before: float = earlier.get("seconds", 0.0)  # of the sessions that this one goes on from
        self.clock = time.perf_counter()
        self.facts: dict[str, Any] = {}

    def write(self, status: Status, final: Path | None = None) -> None:
        """The file as of now, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        # Once, and late: config.yaml, which names model and data, is written by a callback when the run starts.
        self.facts = self.facts or facts_of(self.trainer)
        state = self.trainer.state
        record = {
            "method": self.facts["method"],
            "status": status,
            "started": self.started,
            "seconds": round(self.seconds_before + time.perf_counter() - self.clock, 1),
            "step": state.step,
            "total_steps": self.trainer.total_steps,
            "tokens": state.tokens,
            **self.facts,
            "evaluation": finite(state.evaluation),
            "best_step": state.best_step,
            "final": None if final is None else str(final),
        }
        path = self.folder / RUN_FILE
        try:
            write_whole(path, json.dumps(record, indent=1, ensure_ascii=False))
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): make room there, then --resume") from error


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """What does not change while the run goes: its model, data, settings, machine."""
    config, folder = trainer.config, Path(trainer.config.output_dir)
    method = method_of(config)
    _, model, reward_models = config_of(folder) or (method, base_name(trainer), getattr(config, "reward_model", ()))
    weights = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    return {
        "method": method,
        "model": {
            "name": model,
            "architecture": getattr(causal_model(trainer.model).config, "model_type", ""),
            "parameters": sum(count for count, _ in weights),
            "trained_parameters": sum(count for count, is_trained in weights if is_trained),
        },
        "lineage": [step._asdict() for step in line_of_run(short(folder), method, model, reward_models)],
        "data": {
            "name": data_name(folder),
            "rows": len(trainer.lengths),
            "summary": str(getattr(trainer.train_dataset, "summary", "")),
            "sha256": digest(trainer.train_dataset, trainer.lengths),
        },
        "eval_data": None if trainer.eval_dataset is None else hashed(trainer.eval_dataset),
        "settings": [list(line) for line in settings_of_run(trainer)],
        "hardware": {
            "device": str(trainer.accelerator.device),
            "precision": precision(trainer),
            **machine(str(trainer.accelerator.device)),
        },
        "versions": versions(),
        "seed": config.seed,
        "processes": trainer.processes,
    }


def settings_of_run(trainer: Trainer) -> list[tuple[str, str]]:
    """The numbers that follow from the settings, each with its name."""
    config, weights = trainer.config, list(trainer.model.parameters())
    trained, total = (sum(p.numel() for p in weights if p.requires_grad or every) for every in (False, True))
    warmup = num_warmup_steps(trainer.total_steps, config.warmup)
    return [
        ("trained weights", f"{trained:,} of {total:,} ({trained / total:.2%})"),
        ("one step", one_step(trainer)),
        ("steps", f"{trainer.total_steps:,} ({trainer.steps_per_epoch:,} per epoch), warm-up {warmup}"),
        ("learning rate", f"{trainer.peak_learning_rate:g} at its peak, then {config.lr_schedule}"),
        ("device", f"{trainer.accelerator.device}, {precision(trainer)} arithmetic"),
        *trainer.facts().items(),
        ("output", config.output_dir),
    ]


def one_step(trainer: Trainer) -> str:
    """What one optimiser step sees: rows; where the policy writes its own rows, prompts and their responses."""
    config = trainer.config
    batches = (
        f"(batch {config.batch_size} x accumulation {config.gradient_accumulation_steps} x processes "
        f"{trainer.processes})"
    )
    tokens = sum(trainer.lengths) / max(len(trainer.lengths), 1) * trainer.rows_per_step
    if not isinstance(config, OnPolicyConfig):
        return f"{trainer.rows_per_step} rows {batches}, about {tokens:,.0f} tokens"
    written = trainer.rows_per_step * getattr(config, "group_size", 1) * config.max_new_tokens
    return f"{trainer.rows_per_step} prompts {batches}, about {tokens:,.0f} tokens, and up to {written:,} of responses"


def precision(trainer: Trainer) -> str:
    """fp32, bf16 or fp16."""
    return {"no": "fp32"}.get(trainer.accelerator.mixed_precision, str(trainer.accelerator.mixed_precision))


def method_of(config: TrainingConfig) -> str:
    return str(getattr(config, "METHOD", "") or type(config).__name__.removesuffix("Config").lower())


def base_name(trainer: Trainer) -> str:
    """The model that the weights were loaded from, where no config.yaml says what was asked for."""
    path = getattr(causal_model(trainer.model).config, "_name_or_path", "") or "a model without a name"
    return short(Path(path)) if Path(path).is_dir() else path


def data_name(folder: Path) -> str:
    """What config.yaml calls the data; empty where the rows were given to the trainer by a program."""
    try:
        dataset = read_yaml(folder / "config.yaml")["dataset"]
        return str(dataset["name"] or " + ".join(f"{name} x {weight:g}" for name, weight in dataset["mix"].items()))
    except (UserError, KeyError, TypeError, AttributeError):
        return ""


def hashed(dataset: Any) -> dict[str, Any]:
    lengths = row_lengths(dataset)
    return {"rows": len(lengths), "sha256": digest(dataset, lengths)}


def digest(dataset: Any, lengths: Sequence[int]) -> str:
    """SHA-256 of the rows as they are trained: token ids and labels, in their order; the same for the same rows."""
    found = hashlib.sha256(str(list(lengths)).encode())
    for row in range(0, len(lengths), math.ceil(len(lengths) / HASHED_ROWS) or 1):
        for tensors in sequences_of(dataset, row):
            for tensor in tensors:
                found.update(tensor.long().cpu().numpy().tobytes())
    return found.hexdigest()


def finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """An infinite perplexity is no JSON."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
