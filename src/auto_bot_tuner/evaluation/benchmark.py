"""Tasks of EleutherAI's lm-evaluation-harness (lm-eval, an extra) on a loaded model: names in, scores out.

Published figures are measured with these tasks, prompt and scoring included, so they are what a figure of yours can be
compared with. A task of your own is a YAML file; lm-eval's documentation calls it a "new task".

Two stations: `find_tasks` (the names are known, their data is here) before a model is loaded, then `run_tasks`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auto_bot_tuner.evaluation.benchmark_scores import Score, scores_of
from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.settings import nearest

# Of statistics that have no formula for their error (BLEU, F1 over all answers). lm-eval's 100,000 take minutes.
RESAMPLES = 1_000
LIST = "list them with: python main.py evaluate benchmark --tasks list"


def require_lm_eval() -> None:
    """
    Raises:
        UserError: lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("evaluate benchmark needs lm-eval, which is an extra: install it with: uv pip install lm-eval")


def task_names(include_path: str = "") -> list[str]:
    """All names of tasks, groups and tags."""
    require_lm_eval()
    with hushed():
        return list(task_manager(include_path, with_built_in=True).all_tasks)


def find_tasks(names: Sequence[str], include_path: str = "") -> list[Any]:
    """lm-eval's objects for names, patterns with `*`, and paths of YAML files; their data is read.

    Raises:
        UserError: a name is unknown, the data cannot be had, or the task would run a model's code on this machine.
    """
    require_lm_eval()
    with hushed():
        # The index of lm-eval's own 14,000 tasks takes seconds: only where one of them is asked for.
        might_be_own = all(include_path or is_file(name) for name in names)
        manager = task_manager(include_path, with_built_in=not might_be_own)
        if might_be_own and not all(is_known(name, manager) for name in names):
            manager = task_manager(include_path, with_built_in=True)
        found: dict[str, Any] = {}
        for name in matched(names, manager):
            check_safe(name, getattr(manager.task_index.get(name), "cfg", None) or {})
            loaded = load_task(name, manager)
            inside = {task.task_name for group in loaded["groups"].values() for task in group.get_all_tasks()}
            found.update({key: group for key, group in loaded["groups"].items() if key == name})
            found.update({key: task for key, task in loaded["tasks"].items() if key not in inside})
            for task_name, task in loaded["tasks"].items():
                check_safe(task_name, {"unsafe_code": getattr(task, "UNSAFE_CODE", False)})
    return list(found.values())


def task_manager(include_path: str, with_built_in: bool) -> Any:
    from lm_eval.tasks import TaskManager

    if include_path and not expanded(include_path).is_dir():
        raise UserError(f"--include-path {include_path} is no folder: name the folder of your task files (.yaml)")
    paths = [str(expanded(include_path).resolve())] if include_path else None
    return TaskManager(include_path=paths, include_defaults=with_built_in)


def is_known(name: str, manager: Any) -> bool:
    """Whether an index without lm-eval's own tasks can serve it: a group may name those, so it cannot."""
    own = manager.task_index.get(name)
    return is_file(name) or (own is not None and "TASK" in own.kind.name)


def is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")


def matched(names: Sequence[str], manager: Any) -> list[str]:
    """Names, with patterns replaced by what they match, each once.

    Raises:
        UserError: one is not known; the message names a near one.
    """
    every: list[str] = []
    for name in names:
        if is_file(name):
            if not expanded(name).is_file():
                raise UserError(f"--tasks {name}: no such file (looked from {Path.cwd()}); check the path")
            every.append(str(expanded(name).resolve()))
        elif matches := manager.match_tasks([name]):
            every += matches
        else:
            close = nearest(name, manager.all_tasks)
            raise UserError(f"there is no task {name}; {f'did you mean {close}? Or ' if close else ''}{LIST}")
    return list(dict.fromkeys(every))


def load_task(name: str, manager: Any) -> dict[str, Any]:
    """{"tasks": {name: task}, "groups": …}: data and all.

    Raises:
        UserError: it cannot be had. lm-eval lets every error of the libraries below through, so all are told here.
    """
    try:
        loaded: dict[str, Any] = manager.load([name])
        return loaded
    except ImportError as error:
        raise UserError(f"task {name} needs a package that is not here ({one_line(error)}): install it") from error
    except OSError as error:  # files that are not there, no network, and the hub's own errors
        raise data_error(name, error) from error
    except Exception as error:
        raise UserError(f"task {name} cannot be loaded ({type(error).__name__}: {one_line(error)})") from error


def data_error(task: str, error: OSError) -> UserError:
    """What to do about a task's data: another thing where the hub was not reached than where a file is missing."""
    from huggingface_hub import constants

    unreached = re.search(r"Couldn't reach '([^']+)' on the Hub", str(error))
    if unreached is None:
        return UserError(
            f"the data of task {task} cannot be had ({one_line(error)}): mend dataset_path or data_files in the task's "
            "file, or choose another task"
        )
    if constants.HF_HUB_OFFLINE:
        cause, cure = "HF_HUB_OFFLINE is set, so the hub is not asked", "unset it"
    else:
        cause, cure = f"the hub ({constants.ENDPOINT}) does not answer", "connect to the network"
    return UserError(
        f"the data of task {task}, {unreached[1]}, is not here, and {cause}: {cure} and run the same again (python "
        f"main.py download dataset {unreached[1]} fetches it for later)"
    )


def check_safe(name: str, config: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: the task would run what the model writes.
    """
    if config.get("unsafe_code"):
        raise UserError(f"task {name} runs the code that the model writes on this machine, which is not done here")


@dataclass(frozen=True, kw_only=True)
class HowToAsk:
    """How the tasks are put to the model."""

    limit: int = 0  # questions of each task; 0: all
    num_fewshot: int | None = None  # None: as each task says
    chat_format: bool = False
    batch_size: int = 8


def run_tasks(model: Any, tokenizer: Any, tasks: Sequence[Any], how: HowToAsk) -> list[Score]:
    """Let the model do the tasks of `find_tasks`; one score per task and metric, groups included.

    Raises:
        UserError: a task does not fit its data or the model's context.
    """
    import lm_eval

    from auto_bot_tuner.evaluation.benchmark_model import CheckpointLM

    with hushed(), unrecorded():
        lm = CheckpointLM(model, tokenizer, how.batch_size, how.chat_format)
        try:
            results = lm_eval.simple_evaluate(
                lm,
                tasks=list(tasks),
                task_manager=task_manager("", with_built_in=False),  # the tasks are loaded: it has nothing to find
                num_fewshot=how.num_fewshot,
                limit=how.limit or None,
                apply_chat_template=how.chat_format,
                bootstrap_iters=RESAMPLES,
                confirm_run_unsafe_code=False,
            )
        except (ValueError, AssertionError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"lm-eval cannot run this ({type(error).__name__}: {one_line(error)})") from error
    return scores_of(results)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """lm-eval and the libraries below it log, warn and draw bars for every task; what is wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """lm-eval notes the machine and its git commit in every result, by programs that it starts: seconds, and their
    complaints on the terminal, for what is not read here."""
    from lm_eval import evaluator

    notes = {name: getattr(evaluator, name, None) for name in ("get_git_commit_hash", "add_env_info")}
    for name in notes:
        setattr(evaluator, name, lambda *_: None)
    try:
        yield
    finally:
        for name, function in notes.items():
            setattr(evaluator, name, function)
