"""Records what the commands of a document print, and puts it into the document:

    python -m tests.record_words README.md               run its commands that have a record, in a fresh folder
    python -m tests.record_words README.md --only train-mine train-mine-dry-run --demo checkpoints/demo
    python -m tests.record_words README.md --refresh     its output blocks get the records' lines; nothing is run
    python -m tests.record_words README.md --speed       its section on speed from benchmarks/results/cpu.json

Times are those of the moment, so what is quoted with its seconds wants a quiet machine. What a figure in words comes
from, `tests/test_words.py` knows, and says which ones a new record has made wrong.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.documents import RECORDS, ROOT, Block, Command, all_commands, blocks, read_blocks, record, source_lines
from tests.word_records import MORE
from tests.word_runs import make_files

LINKED = ("main.py", "src", "commands", "Makefile", ".venv")


def make_folder(folder: Path, demo: str) -> Path:
    """What README assumes: this checkout's program, the six rows, and the demo's models where they are made already."""
    rows = [block.text for block in blocks("README.md") if block.kind == "json" and "Ida" in block.text]
    make_files(folder, rows[0] + "\n")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    if demo:
        shutil.copytree(demo, folder / "checkpoints" / "demo")
    return folder


def run(command: Command, folder: Path) -> None:
    """The command by a shell; its record is the command, then what it printed."""
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("COLUMNS", None)
    print(f"$ {command.text}", flush=True)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{command}: exit {done.returncode}\n{done.stdout[-2000:]}")
    printed = done.stdout.replace(f"{folder}/", "").replace(f"{ROOT}/", "")
    RECORDS.mkdir(exist_ok=True)
    record(command.record).write_text(f"$ {command.text}\n{printed}", encoding="utf-8")


def commands_with_records(document: str) -> list[Command]:
    """What `make demo` runs, the page's own commands, and those behind its other figures."""
    shown = [command for command in all_commands(document) if command.record]
    more = [Command(document, 0, text, name) for name, text in MORE.get(document, {}).items()]
    return [Command(document, 0, "python main.py demo", "demo"), *shown, *more]


def is_asked_for(command: Command, arguments: argparse.Namespace) -> bool:
    if arguments.only:
        return command.record in arguments.only
    return command.record != "demo" or (arguments.document == "README.md" and not arguments.demo)


# ---- into the document ----


def refreshed(block: Block) -> str:
    """The block with each line as its records have it now; … stays where it is."""
    recorded = [line.rstrip() for source in block.noted("from") for line in source_lines(source)]
    lines, at = [], 0
    for line in block.text.splitlines():
        if not line.startswith("…"):
            at = place_of(line, recorded, at, str(block))
            is_cut = line.endswith("…") and not recorded[at].endswith("…")
            line = f"{recorded[at][: len(line) - 1].rstrip()}…" if is_cut else recorded[at]
            at += 1
        lines.append(line)
    return "\n".join(lines)


def place_of(line: str, recorded: list[str], at: int, block: str) -> int:
    """Where the record has this line now: as it is, else with other figures, else the one most like it."""

    def bare(text: str) -> str:
        return re.sub(r"[\d.,]+|─+| +", "#", text)

    def likeness(number: int) -> float:
        return difflib.SequenceMatcher(None, recorded[number], line, autojunk=False).ratio()

    if line in recorded[at:]:
        return recorded.index(line, at)
    rest = range(at, len(recorded))
    near = max([n for n in rest if bare(recorded[n]) == bare(line)] or rest, key=likeness)
    if likeness(near) < 0.5:
        sys.exit(f"{block}: no line of the record is like {line!r}; write this block anew")
    return near


def refresh(document: str) -> None:
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for block in reversed(list(read_blocks(document, text))):
        if block.kind == "output" and block.noted("from"):
            start = block.line - 1
            lines[start : start + len(block.text.splitlines())] = refreshed(block).splitlines()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def between_markers(document: str, name: str, content: str) -> None:
    """Put `content` between <!-- NAME --> and <!-- end of NAME -->."""
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    new, count = re.subn(pattern, lambda found: f"{found[1]}{content.strip()}\n{found[2]}", text, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{document} has {count} places <!-- {name} --> … <!-- end of {name} -->, wanted one")
    path.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document")
    parser.add_argument("--only", nargs="*", default=[], help="names of records; default: all of the document")
    parser.add_argument("--demo", default="", help="folder of a finished demo, in place of running it")
    parser.add_argument("--folder", default="", help="go on in this folder instead of a fresh one")
    parser.add_argument("--refresh", action="store_true")
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    if arguments.refresh:
        return refresh(arguments.document)
    if arguments.speed:
        from tests.speed_words import speed_section

        return between_markers(arguments.document, "speed", speed_section())
    wanted = [command for command in commands_with_records(arguments.document) if is_asked_for(command, arguments)]
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="words-")).resolve()
    if not (folder / "main.py").exists():
        folder.mkdir(exist_ok=True)
        make_folder(folder, str(Path(arguments.demo).resolve()) if arguments.demo else "")
    for command in wanted:
        run(command, folder)
    print(f"{len(wanted)} records in {RECORDS.relative_to(ROOT)}; the folder of the runs: {folder}")


if __name__ == "__main__":
    main()
