"""One run of a trainer: its folder, reporters, evaluations, samples and saves. The loop says when; this does it."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from auto_bot_tuner.training import checks
from auto_bot_tuner.training.checkpoint import load_checkpoint, save_checkpoint
from auto_bot_tuner.training.events import Event, EventName
from auto_bot_tuner.training.progress import ProgressLine
from auto_bot_tuner.training.record import Record, Status
from auto_bot_tuner.training.reporting import build_reporters, write_report
from auto_bot_tuner.training.run_folder import (
    check_unfinished,
    checkpoints,
    cut_logs,
    leave_run_folder,
    newest_checkpoint,
    open_run_folder,
    prune,
    refuse_to_resume,
    sync_logs,
)
from auto_bot_tuner.training.soundness import is_sound
from auto_bot_tuner.utils.errors import Interrupted, UserError, one_line

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer


# What an OSError is that a person can mend, wherever it was raised.
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# How gloo and NCCL say that another process died.
LOST = re.compile(r"connection (closed|reset)|broken pipe|timed? ?out|remote process exited|aborted", re.IGNORECASE)
ENDLESS = (
    "none of the sample answers ended by itself: train longer, or look with python main.py inspect --loss "
    "whether the end token is learnt at all (LoRA leaves its embedding as it was)"
)


class Run:
    """A context manager: opens the folder (or resumes from it), and closes the reporters however the run ends."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.config = trainer, trainer.config
        self.folder = Path(trainer.config.output_dir)
        self.reporters: list[Callable[[Event], None]] = []
        self.record: Record | None = None  # of the main process, once the run has started

    def __enter__(self) -> Run:
        trainer = self.trainer
        # The main process makes the folder; the others go by what it then holds.
        if trainer.is_main:
            open_run_folder(self.config)
        try:
            self.start()
            self.emit("start", {})
        except BaseException as error:
            self.close()
            if (cause := self.outside_cause(error)) is not None:
                raise cause from error
            raise
        return self

    def start(self) -> None:
        """Load the checkpoint to go on from, check what can be checked, open the reporters."""
        trainer = self.trainer
        trainer.accelerator.wait_for_everyone()
        checkpoint = newest_checkpoint(self.folder, is_sound) if self.config.resume else None
        if self.config.resume and checkpoint is None:  # all sizes were right, and no content
            refuse_to_resume(self.folder)
        trainer.prepare()
        if checkpoint is not None:
            load_checkpoint(trainer, checkpoint)
            check_unfinished(self.folder, trainer.state.step, trainer.total_steps)
        else:
            torch.manual_seed(self.config.seed + trainer.rank)  # dropout and noise differ between processes
        if trainer.is_main:
            cut_logs(self.folder, trainer.state.step)
            checks.check_disk(self.folder, trainer.trained_parameters().values())
        if checkpoint is None:
            trainer.on_main(checks.check_save, trainer, self.folder)
        if trainer.is_main:
            self.reporters = build_reporters(self.config, trainer.state.step)
            self.progress = ProgressLine(trainer.total_steps, trainer.state.step)
            if checkpoint is not None:
                found = [path.name for path in checkpoints(self.folder)]
                damaged = ", ".join(found[found.index(checkpoint.name) + 1 :])  # else it would have been the newest
                passed_over = f" (damaged, passed over: {damaged})" if damaged else ""
                self.progress.note(f"resumed from {checkpoint}{passed_over}")
            self.reporters += [self.progress, *trainer.callbacks]
            self.record = Record(trainer, is_resumed=checkpoint is not None)

    def close(self) -> None:
        if self.trainer.is_main:
            leave_run_folder(self.config)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                stopped = isinstance(error, Interrupted | KeyboardInterrupt)
                with contextlib.suppress(Exception):  # the error itself is what counts
                    self.write_down("interrupted" if stopped else "failed")
                with contextlib.suppress(Exception):
                    self.emit("end", {})  # reporters close their files however the run ends
                if isinstance(error, Interrupted):
                    self.report()
        finally:
            self.close()  # last: a run that begins now must not meet one that still writes
        if error is not None and (cause := self.outside_cause(error)) is not None:
            raise cause from error

    def outside_cause(self, error: BaseException) -> UserError | None:
        """The line for what is no bug of anybody's: a disk that takes nothing more, a process that is gone."""
        if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
            return UserError(
                f"cannot write to {self.folder} ({error.strerror}): make room there, then go on with the same command "
                "and --resume"
            )
        lost = LOST.search(str(error)) if isinstance(error, RuntimeError) and self.trainer.processes > 1 else None
        if lost is not None:
            return UserError(
                f"process {self.trainer.rank} of {self.trainer.processes} lost another one ({lost.group().lower()}): "
                "see what that one said last; then go on with the same command and --resume"
            )
        return None

    def emit(self, name: EventName, metrics: dict[str, Any]) -> None:
        for report in self.reporters:
            report(Event(name, self.trainer.state.step, metrics, self.trainer))
        if name in ("start", "evaluate", "save"):
            self.write_down("running")

    def write_down(self, status: Status, final: Path | None = None) -> None:
        """run.json as of now, by the main process."""
        if self.record is not None:
            self.record.write(status, final)

    def report(self) -> None:
        """report.html, where it is asked for."""
        if self.trainer.is_main and "html" in self.config.report_to and (trouble := write_report(self.folder)):
            self.progress.note(trouble)

    def note_update(self, metrics: dict[str, float] | None) -> None:
        self.emit("step", {})
        if metrics is not None:
            self.trainer.state.metrics = metrics
            self.emit("log", metrics)
            for verdict in self.trainer.verdicts(metrics):
                self.note(verdict, "verdict")

    def note(self, text: str, kind: str = "note") -> None:
        """Tell the person, once and not once per process; `kind`: note, or verdict on the health of the run."""
        self.emit("note", {"kind": kind, "text": text})

    def evaluate(self) -> None:
        """Evaluate, write samples, and keep the weights where they are the best so far."""
        state, is_best = self.trainer.state, False
        is_first = state.evaluated_step is None
        state.evaluated_step = state.step
        if self.trainer.eval_dataset is not None:
            state.evaluation = self.trainer.evaluate()
            self.emit("evaluate", state.evaluation)
            is_best = state.note_evaluation(self.trainer.objective(state.evaluation))
            for remark in self.trainer.remarks(state.evaluation):
                self.note(remark)
        if samples := self.trainer.on_main(self.trainer.samples):
            self.emit("samples", {"samples": samples})
            # At the last evaluation, and not when the run ends: one that is killed in between would say it never, or
            # twice.
            if self.is_last_step() and not any(sample["ended"] for sample in samples):
                self.note(ENDLESS)
        if is_first or self.is_last_step():
            self.show_tokens()
        self.trainer.accelerator.wait_for_everyone()
        # Last: what a checkpoint's logs hold is what was written before it.
        if is_best and self.config.keep_best:
            self.save()

    def show_tokens(self) -> None:
        """The heat-maps' data, by the main process; a run does not fail for a picture."""
        try:
            if views := self.trainer.on_main(self.trainer.token_views):
                self.emit("token_views", {"views": views})
        except Exception as error:
            self.note(f"no token views ({one_line(error)})")

    def is_last_step(self) -> bool:
        return self.trainer.state.step == self.trainer.total_steps or self.is_stale()

    def is_stale(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience > 0 and self.trainer.state.evaluations_since_best >= patience

    def save(self) -> Path:
        if self.trainer.is_main:
            sync_logs(self.folder)  # first: what a checkpoint's logs hold must not be lost where it is not
        path = save_checkpoint(self.trainer)
        self.emit("save", {"path": str(path)})
        return path

    def interrupt(self, exit_code: int) -> NoReturn:
        path = self.save()
        raise Interrupted(
            f"stopped after step {self.trainer.state.step} of {self.trainer.total_steps}, saved {path}; "
            f"go on with the same command and --resume{self.from_file()}",
            exit_code,
        )

    def from_file(self) -> str:
        """The command that needs no memory of the first one, where the run was started by a command."""
        config = self.folder / "config.yaml"
        return f", or: python main.py train-config {config} --resume" if config.exists() else ""

    def finish(self) -> dict[str, Any]:
        """final/: the last weights, or the best ones where they were kept."""
        state = self.trainer.state
        if state.evaluated_step != state.step:
            self.evaluate()
        metrics = {**state.metrics, **state.evaluation}
        if self.config.keep_best and state.best_step not in (None, state.step):
            best = self.folder / f"checkpoint-{state.best_step}"
            if is_sound(best):
                self.trainer.load_weights(best)
            else:
                self.note(f"{best}, the best so far, is damaged: final/ holds the last weights instead")
        final = self.folder / "final"
        self.trainer.on_main(self.trainer.save_final, final, metrics)
        if self.trainer.is_main:  # once more: the run may have been killed while it deleted
            prune(self.folder, self.config.save_total_limit, state.best_step, state.step)
        self.trainer.accelerator.wait_for_everyone()
        self.trainer.module.eval()
        self.emit("save", {"path": str(final)})
        self.emit("end", metrics)
        self.write_down("finished", final)
        self.report()
        return {"steps": state.step, **metrics, "final": str(final)}
