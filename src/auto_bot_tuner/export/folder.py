"""The folder that an export becomes: written whole or not at all, nothing overwritten unasked, a card in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auto_bot_tuner.training.run_folder import written_aside
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.front_matter import join_card, split_card
from auto_bot_tuner.utils.paths import expanded

CARD = "README.md"
HEADING = "## This export"  # in the card of every export, and of nothing else: only such a folder is ever replaced


def check_output(output: Path, overwrite: bool, checkpoint: Path) -> None:
    """Known before the model is loaded.

    Raises:
        UsageError: the folder exists and may not be replaced.
    """
    output = expanded(output)
    # Resolved: another spelling (a link, foo/..) is still the same folder.
    if output.resolve() in (checkpoint.resolve(), *checkpoint.resolve().parents):
        raise UsageError(f"--output {output} holds the checkpoint itself: name another folder")
    if not output.exists() and not output.is_symlink():
        return
    if output.is_dir() and not any(output.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{output} exists already: name another --output, or replace it with --overwrite")
    if output.is_symlink() or not is_export(output):
        raise UsageError(f"{output} holds no exported model, so --overwrite leaves it alone: name another --output")


def is_export(folder: Path) -> bool:
    """Whether an export wrote this folder. A config.json alone says nothing: programs of all kinds have one."""
    try:
        return HEADING in (folder / CARD).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return False


@contextmanager
def exported_to(output: Path) -> Iterator[Path]:
    """A folder to write into that becomes `output` when the block ends well; else nothing is left."""
    with written_aside(expanded(output), go_on="export again") as aside:
        yield aside


def write_card(folder: Path, origin: Path, library: str, words: str, facts: list[str]) -> None:
    """README.md: the checkpoint's own card carried along, under its right library, and what this export is.

    A checkpoint of another tool, without a card, gets a short one.
    """
    words = "\n".join([HEADING, words, "```", *facts, "```\n"])
    if origin.name == "adapter" and not (origin / CARD).is_file():
        origin = origin.parent  # a merged final/ has the card, its adapter/ none
    try:
        card = (origin / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        card = f"---\nlibrary_name: {library}\n---\n# {origin.name}\n"
    # An adapter's card calls it a peft model, and a second export would describe itself twice.
    head, rest = split_card(card)
    head = [line for line in head if not line.startswith("library_name:")] + [f"library_name: {library}"]
    body = re.sub(rf"\n{HEADING}\n.*?(?=\n## |\Z)", "", "\n".join(rest), flags=re.DOTALL)
    (folder / CARD).write_text(join_card(head, [body.rstrip("\n"), "", words]), encoding="utf-8")
    for picture in re.findall(r"!\[[^]]*\]\(([\w.-]+)\)", body):
        if (origin / picture).is_file():
            shutil.copyfile(origin / picture, folder / picture)
