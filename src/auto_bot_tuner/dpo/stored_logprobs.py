"""Reference log-probabilities computed once: the reference reads every row before training, and is not needed again.

They depend on the reference's weights, on the rows (tokens and labels, and with them the template) and on the precision
of the arithmetic; the file in the cache is named by a digest of these. So they may be computed before a checkpoint is
loaded (the weights of the start decide, also when a run is resumed), and a second run finds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from auto_bot_tuner.data import IGNORE_INDEX, cache
from auto_bot_tuner.training.batching import Batch, collate_groups, row_lengths, sequences_of
from auto_bot_tuner.training.reference import weights_digest

if TYPE_CHECKING:
    from auto_bot_tuner.dpo.trainer import DPOTrainer


def precomputed(trainer: DPOTrainer, dataset: Any) -> StoredLogprobs:
    """What the trainer's reference says of every row: from the cache, else computed by all processes together."""
    assert trainer.reference is not None
    stored = StoredLogprobs(dataset, [weights_digest(trainer.reference.module.model), trainer.precision])
    if trainer.on_any_process(not stored.read()):
        device = trainer.accelerator.device
        cuts = trainer.cuts(range(len(dataset)), row_lengths(dataset))
        batches = (collate_groups(dataset, cut).to(device) for cut in cuts)
        stored.compute(batches, trainer.reference_logprobs)
        summed: Any = trainer.accelerator.reduce(stored.values.to(device), reduction="sum")
        stored.values = summed.cpu()
        if trainer.is_main:
            stored.write()
    return stored


class StoredLogprobs:
    """Log-probabilities of a data set's trained tokens, all rows end to end."""

    def __init__(self, dataset: Any, key: Sequence[str]) -> None:
        """Counts the trained tokens of each row; `key` says what else than the rows the numbers depend on."""
        rows, counts = hashlib.blake2b(digest_size=16), []
        for row in range(len(dataset)):
            sequences = sequences_of(dataset, row)
            for input_ids, labels in sequences:
                rows.update(input_ids.numpy().tobytes() + labels.numpy().tobytes() + b"|")
            counts.append(sum(int((labels != IGNORE_INDEX).sum()) for _, labels in sequences))
        self.starts = [0, *np.cumsum(counts).tolist()]
        self.key = cache.digest(["reference logprobs", rows.hexdigest(), *key])
        self.values = torch.full((self.starts[-1],), torch.nan)  # (trained tokens,)

    def read(self) -> bool:
        """Take the values from the cache; whether they were there, whole."""
        found = (cache.read(self.key) or {}).get("logprobs")
        if found is None or found.shape != tuple(self.values.shape) or not np.isfinite(found).all():
            return False
        self.values = torch.from_numpy(found)
        return True

    def write(self) -> None:
        cache.write(self.key, {"logprobs": self.values.numpy()})

    def compute(self, batches: Iterable[Batch], logprobs: Callable[[Batch], torch.Tensor]) -> None:
        """Fill in the rows of these batches; those of other processes become 0, for a sum over all processes."""
        self.values.zero_()
        for batch in batches:
            found = logprobs(batch).cpu()  # of an empty share too: sharded weights are gathered by all processes
            if batch.rows:
                self.values[self.places(batch.rows)] = found[(batch["labels"] != IGNORE_INDEX).cpu()]

    def of(self, rows: Sequence[int], labels: torch.Tensor) -> torch.Tensor:
        """(S, T) as the reference itself would give them, for the batch of these rows with these labels (S, T)."""
        trained = labels != IGNORE_INDEX
        return torch.zeros(labels.shape).masked_scatter(trained, self.values[self.places(rows)])

    def places(self, rows: Sequence[int]) -> torch.Tensor:
        """Where the values of these rows stand, row after row: (N,)."""
        return torch.cat([torch.arange(self.starts[row], self.starts[row + 1]) for row in rows])
