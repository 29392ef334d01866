"""Before a start, the start, and after it: the line that does the same, what it would take, and what came of it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import commands
from auto_bot_tuner.utils.errors import Interrupted, UserError, unexpected
from auto_bot_tuner.utils.run_config import RunConfig, save_run_config
from src.menu.draft import Draft
from src.menu.screen import Option, choose, complain, console, one_step, say, type_in, verbatim

# Libraries in C that cannot be imported a second time after a Ctrl-C in the middle of the first.
FRAGILE = ("numpy", "torch", "pyarrow", "tokenizers", "transformers", "datasets", "accelerate", "peft")
NO_OR_YES = (Option("no", False), Option("yes", True))
WITHOUT_MODELS = ("doctor", "download", "push", "report", "completion")  # verbs that need none of them

Outcome = Literal["done", "interrupted", "failed"]


def review(
    draft: Draft, change: Callable[[Draft], Draft] | None = None, measures: bool = False
) -> tuple[Draft, Outcome]:
    """Show the line and what it would take, ask, and run. The draft as it ran, and whether to its end.

    After a failure it is asked again: the reason stands above. Raises KeyboardInterrupt for one step back.
    """
    measured: list[str] | None = None
    while True:
        console.rule("ready")
        verbatim(draft.line)
        complaint = draft.complaint()
        if complaint:
            complain(complaint)
        elif measures and measured != draft.argv:
            measured = draft.argv
            measure(draft)
            verbatim(draft.line)  # again: what was measured has pushed it off a small screen
        answer = choose("Start?", actions(not complaint, change is not None, measures and not complaint))
        if answer == "back":
            raise KeyboardInterrupt
        if answer == "start" and (outcome := start(draft)) != "failed":
            return draft, outcome
        with one_step():
            if answer == "save":
                save(draft)
            elif answer == "change" and change is not None:
                draft = change(draft)


def actions(can_start: bool, can_change: bool, can_save: bool) -> list[Option]:
    return [
        *([Option("Start", "start")] if can_start else []),
        *([Option("Change a setting", "change")] if can_change else []),
        *([Option("Save as YAML (a file for train-config)", "save")] if can_save else []),
        Option("Back", "back"),
    ]


def measure(draft: Draft) -> None:
    """The dry run: data, numbers, time and memory from one measured step."""
    dry = Draft(draft.verb, draft.start, {**draft.answers, "--dry-run": ["--dry-run"]})
    with one_step():  # Ctrl-C may come before the handler has begun
        say("\nMeasuring time and memory by a dry run: some seconds. Ctrl-C skips it.\n")
        carry_out(dry, stopped="(skipped)")
    say()


def save(draft: Draft) -> None:
    """Write the settings as a YAML file; `train-config` of it is the same run."""
    arguments = draft.parsed()
    file = Path(type_in("file:", f"{Path(arguments.training.output_dir).name}.yaml", is_path=True)).expanduser()
    if file.suffix.lower() not in (".yaml", ".yml"):
        file = file.with_name(f"{file.name}.yaml")
    if file.exists() and not choose(f"{file} is there already: overwrite it?", NO_OR_YES):
        return
    try:
        parts = {name: getattr(arguments, name) for name in ("method", "model", "dataset", "training")}
        save_run_config(file, RunConfig(**parts))
    except UserError as error:
        complain(str(error))
        return
    say("saved; the same run, now or later:")
    verbatim(Draft("train-config", (str(file),)).line)


def start(draft: Draft) -> Outcome:
    """Do the work between two rules."""
    console.rule(draft.verb)
    outcome = carry_out(draft)
    if draft.verb == "chat":
        say()  # the cursor stands behind its prompt
    console.rule()
    return outcome


def carry_out(draft: Draft, stopped: str = "stopped") -> Outcome:
    """Call the handler. Whatever goes wrong is said, and the menu goes on; only SIGTERM ends it."""
    try:
        if draft.verb not in WITHOUT_MODELS:
            import_fragile()
        commands.run(draft.verb, draft.argv)
        return "done"
    except Interrupted as error:
        if error.exit_code != 130:
            raise
        say(f"\n{error}\nHere in the menu: Resume.", "yellow")
        return "interrupted"
    except UserError as error:
        complain(f"error: {error}")
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:  # SIGTERM arrives as a subclass
            raise
        say(f"\n{stopped}", "yellow")
    except SystemExit as end:  # a handler that says no more than a code
        return "failed" if end.code else "done"
    except Exception as error:  # a bug of ours or of a library: one line, and the menu lives
        complain(f"error: {unexpected(error)} (unexpected; this shows where:)")
        verbatim(f"{draft.line} --debug")
    finally:
        give_back()
    return "failed"


def import_fragile() -> None:
    """Load the heavy libraries once, whole: a Ctrl-C meanwhile counts when they are there."""
    if "peft" in sys.modules:
        return
    say("loading PyTorch …")
    with held_back():
        for name in FRAGILE:
            with contextlib.suppress(ImportError):  # the handler says it better
                importlib.import_module(name)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C waits until the block is done."""
    pressed: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        pressed.append(number)

    before: Any = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def give_back() -> None:
    """Models of the last command go before the next one loads its own."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch, "cuda", None) and torch.cuda.is_available():
        torch.cuda.empty_cache()


def then(question: str, steps: Sequence[tuple[str, Callable[[], Any]]] = (), once: bool = False) -> None:
    """What to do with what came of it: one (`once`), or one and another until Back. What was printed stays in sight."""
    options = [Option(title, number) for number, (title, _) in enumerate(steps)]
    with one_step():
        while (answer := choose(question, [*options, Option("Back to the menu", None)])) is not None:
            with one_step():
                steps[answer][1]()
                if once:
                    return
