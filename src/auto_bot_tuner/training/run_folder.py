"""The folder of a run: who may write into it, which checkpoints are whole, which ones go.

    output_dir/  config.yaml  run.json  metrics.jsonl  samples.jsonl  notes.jsonl  token_views.jsonl  report.html
                 tensorboard/  checkpoint-N/  final/

Two promises. Nothing that an earlier run left is overwritten unless asked for. And a folder that is called
`checkpoint-N` is whole: it is written under another name and renamed, which a file system does in one piece; and it
loses its name before its files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError

from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.durable import GONE, remove, replace, sync, sync_tree, write_whole
from auto_bot_tuner.training.lineage import read_record
from auto_bot_tuner.training.lock import LOCK as LOCK
from auto_bot_tuner.training.lock import claim, owner_of
from auto_bot_tuner.training.soundness import is_whole
from auto_bot_tuner.utils.errors import UserError

LOGS = ("metrics.jsonl", "samples.jsonl", "notes.jsonl", "token_views.jsonl")
OURS = (*LOGS, "config.yaml", "run.json", "report.html", "tensorboard", "final", "save-test", "wandb_id")
NUMBERED = re.compile(r"checkpoint-\d{1,9}", re.ASCII)
UNFINISHED = (".part", ".old", GONE)  # `.NAME.part` and so on: of something that a run was busy with


def check_run_folder(config: TrainingConfig) -> Path | None:
    """The checkpoint that a run in this folder goes on from, or None for a fresh run. Changes nothing.

    Raises:
        UserError: the folder holds a run and neither `resume` nor `overwrite` says what to do with it; `resume`
            without a checkpoint; a run that is still going on writes there.
    """
    folder = Path(config.output_dir)
    owner = owner_of(folder)
    if owner is not None and owner != os.getpid():
        raise UserError(
            f"another run (process {owner}) is writing to {folder}: wait for it or choose another --output-dir; "
            f"if that process is no run, delete {folder / LOCK}"
        )
    newest = newest_checkpoint(folder)
    if config.resume:
        if newest is None:
            refuse_to_resume(folder)
        return newest
    left = leftovers(folder)
    if left and not config.overwrite:
        final = folder / "final"
        go_on = (
            "go on with --resume, " if newest else f"train on from it with --model {final}, " if final.exists() else ""
        )
        raise UserError(
            f"{folder} already holds a run ({left[0].name}): {go_on}choose another --output-dir, "
            "or delete it with --overwrite"
        )
    return None


def refuse_to_resume(folder: Path) -> NoReturn:
    """There is no checkpoint to go on from: a run was stopped before its first, or none was ever there."""
    check_unfinished(folder)
    anew = "start anew with --overwrite instead of --resume" if leftovers(folder) else "start without --resume"
    raise UserError(f"nothing to resume: {folder} holds no complete checkpoint; {anew}")


def check_unfinished(folder: Path, step: int = 0, total_steps: int = 0) -> None:
    """A run that came to its end is not resumed from before it: steps would be taken again, and nothing gained.

    Args:
        step: of the checkpoint to go on from.
        total_steps: of the run that goes on; more than the finished one had are a reason to.

    Raises:
        UserError: the run in `folder` has finished.
    """
    record = read_record(folder)
    last, total = (found if isinstance(found := record.get(name), int) else 0 for name in ("step", "total_steps"))
    if record.get("status") == "finished" and step < last and total_steps <= total:
        raise UserError(
            f"nothing to resume: {folder} has finished, {last} of {total} steps; train on from it with --model "
            f"{folder / 'final'} and another --output-dir"
        )


def open_run_folder(config: TrainingConfig) -> Path | None:
    """`check_run_folder`, and for a fresh run an empty folder that can be written to; marks it as ours."""
    checkpoint = check_run_folder(config)
    folder = Path(config.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder)
        clear_away(folder)
        for path in leftovers(folder) if config.overwrite and checkpoint is None else ():
            remove(path)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --output-dir") from error
    return checkpoint


def leave_run_folder(config: TrainingConfig) -> None:
    with suppress(OSError):  # a disk that broke off the run lets nothing be deleted either
        (Path(config.output_dir) / LOCK).unlink(missing_ok=True)


def clear_away(folder: Path) -> None:
    """Delete what a killed run had begun to write or to delete. A final/ on its way out comes back if it is the only
    one: the kill fell between the two renames of its successor."""
    outgoing = folder / ".final.old"
    if outgoing.exists() and not (folder / "final").exists():
        replace(outgoing, folder / "final")
    for path in folder.glob(".*"):
        name, suffix = path.stem.removeprefix("."), path.suffix
        if suffix in UNFINISHED and (name in OURS or name.startswith("checkpoint-")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def leftovers(folder: Path) -> list[Path]:
    return [path for path in (*checkpoints(folder), *(folder / name for name in OURS)) if path.exists()]


def checkpoints(folder: Path) -> list[Path]:
    """`checkpoint-N` folders, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if NUMBERED.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def newest_checkpoint(folder: Path, is_good: Callable[[Path], bool] = is_whole) -> Path | None:
    """The newest whole checkpoint. A damaged one (a copy cut short, a bad disk) is passed over for the one before.

    Args:
        is_good: `is_whole`, unless it is worth reading all of them: `is_sound`.
    """
    return next((path for path in reversed(checkpoints(folder)) if is_good(path)), None)


@contextmanager
def written_aside(target: Path, go_on: str = "--resume") -> Iterator[Path]:
    """A folder to write into that becomes `target` only when the block ends well; else nothing of it is left.

    Args:
        go_on: what to do once there is room, for the message.

    Raises:
        UserError: the disk is full or cannot be written to; what stood at `target` stands there still.
    """
    aside, outgoing = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    for leftover in (aside, outgoing if target.exists() else aside):  # of a run that was killed while saving
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        sync_tree(aside)  # the disk may keep the rename and lose the data, were it not there first
        if target.exists():
            os.replace(target, outgoing)  # never a moment in which neither the old nor the new one is whole
        replace(aside, target)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"could not save {target} ({cause}): make room there, then {go_on}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # whatever the error was; after a good end there is none
        if outgoing.exists() and not target.exists():  # stopped between the two renames
            os.replace(outgoing, target)
        shutil.rmtree(outgoing, ignore_errors=True)


def prune(folder: Path, keep: int, best_step: int | None, step: int) -> None:
    """Delete the oldest checkpoints beyond `keep` newest ones; the best one stays. 0 keeps all.

    Args:
        step: where the run is. Checkpoints of later steps are damaged, as it was resumed from one before them: they
            must not push out the good ones.
    """
    if keep == 0:
        return
    newest = [path for path in checkpoints(folder) if step_of(path) <= step and is_whole(path)][-keep:]
    for path in checkpoints(folder):
        if path not in newest and path.name != f"checkpoint-{best_step}":
            remove(path)


def cut_logs(folder: Path, step: int) -> None:
    """Drop log lines after `step`: the steps after the checkpoint are about to be taken again."""
    for name in LOGS:
        path = folder / name
        if not path.exists():
            continue
        # As bytes: text may hold other line ends than ours, and a kill may have cut a character in two.
        kept = [line for line in path.read_bytes().split(b"\n") if line_step(line) <= step]
        write_whole(path, b"".join(line + b"\n" for line in kept))


def sync_logs(folder: Path) -> None:
    """What was logged is on the disk: before a checkpoint that will stand for it."""
    for name in LOGS:
        if (folder / name).exists():
            sync(folder / name)


def line_step(line: bytes) -> float:
    """The step of a log line. A line that a kill cut short belongs to no step and goes."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
