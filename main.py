"""auto_bot_tuner from the command line: `python main.py VERB …`, or the menu without a verb.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
VENV_PYTHON = HERE / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


# How long PyTorch's threads spin while they wait for each other, read when torch is loaded. Its default is
# milliseconds: fine on an idle machine, but on one that does anything else besides, each short operation waits for a
# thread that is not running. Not to spin at all wakes threads too late. A few microseconds: near the better of the two
# in both cases (a reward model of the bundled world, idle machine: 44, 70 and 46 ms a step).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

PACKAGES = ("pydantic", "tyro", "torch", "transformers")  # where these are, the rest is


class Terminated(KeyboardInterrupt):
    """SIGTERM outside a training loop (inside one, the loop saves first and says so with `Interrupted`)."""


def main(argv: list[str]) -> int:
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    return guarded(lambda: route(argv), debug)


def route(argv: list[str]) -> int:
    """The menu, the help, or a verb's handler."""
    import commands

    if not argv:
        return menu()
    verb, *rest = argv
    if verb in ("-V", "--version"):
        from auto_bot_tuner import __version__

        print(f"auto_bot_tuner {__version__}")
    elif verb in ("-h", "--help", "help"):
        print(overview(commands.VERBS))
    elif verb in commands.VERBS and {"-h", "--help"} & set(rest):
        from commands.help import page

        print(page(verb, rest))
    elif verb in commands.VERBS:
        commands.run(verb, rest)
    else:
        near = difflib.get_close_matches(verb, commands.VERBS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands.VERBS)}"
        return complain(f"unknown command {verb[:80]!r}: {hint} (python main.py --help)", 2)
    return 0


def menu() -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return complain("the menu needs a terminal; name a command instead: python main.py --help", 2)
    from src.interactive import main_menu

    main_menu()
    return 0


# The page of `python main.py --help`, by purpose; a verb that is not named here stands at the end.
PURPOSES = {
    "Begin": ("demo", "doctor"),
    "Train": ("train-sft", "train-reward", "train-dpo", "train-ppo", "train-grpo", "train-config"),
    "Look": ("chat", "inspect", "report"),
    "Measure": ("evaluate", "frontier", "reward-hacking"),
    "In and out": ("download", "convert", "push"),
}


def overview(verbs: Mapping[str, tuple[str, str]]) -> str:
    """The page of `python main.py --help`."""
    width = max(map(len, verbs)) + 2
    named = {verb for group in PURPOSES.values() for verb in group}
    groups = PURPOSES | {"This program": tuple(verb for verb in verbs if verb not in named)}
    lines = ["usage: python main.py [COMMAND] [FLAGS]", "", "Without a command: the interactive menu.", ""]
    for purpose, group in groups.items():
        lines.append(f"{purpose}:")
        for verb in group:
            first, *more = textwrap.wrap(verbs[verb][1], 79 - 2 - width)
            lines += [f"  {verb:{width}}{first}", *(f"{'':{2 + width}}{line}" for line in more)]
        lines.append("")
    return "\n".join(
        [
            *lines,
            "python main.py COMMAND --help shows every setting, its range and default, and",
            "commands to copy. --debug, with any command: the whole traceback of an error.",
        ]
    )


def guarded(work: Callable[[], int], debug: bool) -> int:
    """Run `work`; what goes wrong becomes one line on stderr and an exit code."""
    from auto_bot_tuner.utils.errors import UserError, refused_by_the_system, unexpected

    try:
        return work()
    except UserError as error:
        if debug:
            traceback.print_exc()
        return complain(in_one_line(str(error)), error.exit_code)
    except Terminated:
        return complain("terminated", 143)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except (BrokenPipeError, SystemExit) as error:  # `… | head` has read enough
        # rich makes a SystemExit(1) of it.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it closes stdout
        return 0
    except Exception as error:  # the edge of the program: a bug of ours or of a library, in one line all the same
        if debug:
            traceback.print_exc()
        refusal = refused_by_the_system(error) if isinstance(error, OSError) else None
        words = refusal or f"{unexpected(error)} (unexpected; --debug shows where)"
        return complain(in_one_line(str(words)), 1)


def in_one_line(message: str) -> str:
    """A message may quote a template, a row, a server or the name of a file: all of it is text, and of one line."""
    from auto_bot_tuner.utils.errors import shortened
    from auto_bot_tuner.utils.terminal import neutral

    return neutral(shortened(message)).replace("\n", "⏎")


def complain(message: str, exit_code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return exit_code


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    raise Terminated


def use_the_environment() -> None:
    """Go on with .venv's interpreter where this one lacks the packages: nobody should have to activate anything."""
    if sys.version_info >= (3, 11) and all(importlib.util.find_spec(package) for package in PACKAGES):
        return
    if VENV_PYTHON.exists() and Path(sys.prefix).resolve() != VENV_PYTHON.parent.parent.resolve():
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
    sys.exit(complain("the packages are not installed: run `make install` in the folder of main.py first", 1))


if __name__ == "__main__":
    use_the_environment()
    import src  # noqa: F401 - the doorway: finds auto_bot_tuner in a checkout that is not installed

    # A log that is followed grows line by line; a terminal that cannot show a character gets its escape, not a crash.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1:]))
