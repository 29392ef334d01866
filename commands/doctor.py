"""Look at this machine and say what will work on it: no network and no GPU are needed, and no secret is shown."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.terminal import neutral
from commands.json_file import check_writable, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from auto_bot_tuner.utils.machine import Device
    from commands.doctor_checks import Check

MARKS = {"fine": ("✓", "green"), "note": ("·", "yellow"), "wrong": ("!", "yellow"), "fatal": ("✗", "red")}
OFFLINE = (
    "Without a network everything works with bundled (tiny), downloaded and local models and data; only download, "
    "push, and names that are not in the cache need the hub."
)


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """Look at this machine and say what will work on it."""

    # Write what was found to this file as JSON.
    json_file: Annotated[str, tyro.conf.arg(name="json", metavar="FILE")] = ""


def run(arguments: Arguments) -> None:
    """Look and print.

    Raises:
        UserError: no training can work here; the report above it says why.
        UsageError: the JSON file cannot be written.
    """
    from rich.console import Console

    check_writable(arguments.json_file)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the report is also for terminals that know ASCII alone
    console = Console(highlight=False, soft_wrap=False)
    checks, device = examine()
    for check in checks:
        show(console, check)
    fits = what_fits(device) if device else []
    if device:
        show_fits(console, device, fits)
        console.print(f"\n{OFFLINE}")
    fatal = [check for check in checks if check.state == "fatal"]
    write_json(
        arguments.json_file,
        {"works": not fatal, "checks": [asdict(check) for check in checks], "largest_models": fits},
    )
    if fatal:
        raise UserError(f"no training can work here: {fatal[0].name} {fatal[0].text}; {fatal[0].cure}")
    wrong = sum(check.state == "wrong" for check in checks)
    console.print(
        f"\nTraining works here{f'; to mend: {wrong}, marked with !' if wrong else ''}. Try: python main.py demo"
    )


def examine() -> tuple[list[Check], Device | None]:
    """All checks in the order of the report, and the device that a run would take."""
    from commands import doctor_checks as look

    with contextlib.redirect_stderr(io.StringIO()):  # what libraries find odd they say in many lines
        slow = [look.patiently(look.cache, "hub cache"), look.patiently(look.hub, "hub")]
        pytorch, torch = look.pytorch()
        checks, device = [look.python(), pytorch], None
        if torch is not None:
            from auto_bot_tuner.utils.machine import devices

            device = devices(torch)[0]
            checks += [*look.device(torch), look.precision(torch, device.kind), look.processor(torch)]
        checks.append(look.room("checkpoints", Path("checkpoints"), "name another --output-dir"))
        checks.append(look.room("downloads", cache_folder(), "set HF_HOME to another folder"))
        checks += [slow[0](), look.token(), slow[1](), *look.packages(), *look.extras(), look.terminal()]
    return checks, device


def cache_folder() -> Path:
    from auto_bot_tuner.hub.cache import hub_folder

    return hub_folder()


def show(console: Console, check: Check) -> None:
    """`✓ name  text`, and below it the cure."""
    from rich.text import Text

    mark, style = MARKS[check.state]
    if not can_show(console, mark):
        mark = {"fine": "+", "fatal": "x"}.get(check.state, "!")
    first = Text.assemble((mark, style), f" {check.name:16}")
    words = Text(neutral(check.text) + (f"\n-> {neutral(check.cure)}" if check.cure else ""))
    lines = words.wrap(console, max(console.width - len(first), 20))
    for number, row in enumerate(lines):
        console.print(Text.assemble(first if number == 0 else " " * len(first), row), overflow="fold", no_wrap=True)


def can_show(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def what_fits(device: Device) -> list[dict[str, Any]]:
    """The largest model for each way to fine-tune, by the memory that is free now."""
    from auto_bot_tuner.utils.checkup import SIZES, WAYS, installed, largest

    found = []
    for way in WAYS:
        is_possible = not way.needs_gpu or device.kind == "cuda"
        weights = largest(way, device.free) if is_possible else 0
        such = [name for name, size in SIZES if size <= weights]
        missing = way.needs_gpu and is_possible and not installed("bitsandbytes")
        found.append(
            {
                "way": way.name,
                "flags": way.flags,
                "bytes_per_weight": way.bytes_per_weight,
                "largest_weights": int(weights),
                "such_as": such[-1] if such else "",
                "missing": "a GPU" if not is_possible else "bitsandbytes" if missing else "",
            }
        )
    return found


def show_fits(console: Console, device: Device, fits: Sequence[dict[str, Any]]) -> None:
    """What can be fine-tuned here, and how that was reckoned."""
    from rich.table import Table

    from auto_bot_tuner.utils.checkup import ACTIVATIONS, TRAINED
    from auto_bot_tuner.utils.machine import GIB

    table = Table(show_edge=False, pad_edge=False, box=None)
    for head in ("fine-tuning", "flags", "bytes per weight", "up to", "such as"):
        table.add_column(head, justify="right" if head in ("bytes per weight", "up to") else "left")
    for fit in fits:
        up_to = f"{fit['largest_weights'] / 1e9:.1f} B" if fit["largest_weights"] else "-"
        such = f"needs {fit['missing']}" if fit["missing"] else fit["such_as"] or "the bundled tiny"
        table.add_row(fit["way"], fit["flags"], f"{fit['bytes_per_weight']:.2g}", up_to, such)
    console.print(f"\nWhat fits into the {device.free / GIB:.1f} GiB that are free on {device.kind}:\n")
    console.print(table)
    console.print(
        f"\nA trained weight takes 4 bytes, its gradient 4, Adam's two averages 8: {TRAINED}. LoRA trains 1 % of them, "
        f"the frozen base takes 4 (bf16: 2, four bits: 0.6). {ACTIVATIONS:.0%} of the memory is left to activations. "
        "DPO with a frozen reference and PPO (policy, value, reward, reference) take more; --dry-run measures a run."
    )
    if device.kind == "cpu":
        console.print("Memory is not speed: on a CPU models beyond some 0.5 B train for days.")
