"""A terminal for tests: a program in a pseudo-terminal, and its screen as a person would see it.

Enough of a VT100 for what prompt_toolkit, rich and readline write: cursor moves, erasing, scrolling, and the answer to
"where is the cursor?". Tests wait for words on the screen, never for time.
"""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent
ENTER, DOWN, UP, CTRL_C, CTRL_D, CLEAR = "\r", "\x1b[B", "\x1b[A", "\x03", "\x04", "\x15"
PATIENCE = 120.0  # seconds: a slow, busy machine
MOST_PRESSES = 120  # of an arrow key, on the way to a line
PIECE = re.compile(
    r"\x1b\[(?P<arguments>[?>=\d;]*)(?P<final>[@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()=>78][0-9A-B]?|"
    r"(?P<control>[\x00-\x1f])|(?P<text>[^\x00-\x1f]+)"
)


class Screen:
    """Rows of characters, and a cursor."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.cells = [[" "] * columns for _ in range(rows)]
        self.gone: list[str] = []  # what was scrolled away at the top
        self.row = self.column = 0
        self.wraps = True
        self.rest = ""  # an escape code of which the end has not arrived

    def feed(self, text: str) -> str:
        """Show what a program wrote; what the terminal answers."""
        text, answer = self.rest + text, ""
        cut = re.search(r"\x1b(\[[?>=\d;]*|\][^\x07\x1b]*)?$", text)
        text, self.rest = (text[: cut.start()], cut[0]) if cut else (text, "")
        for piece in PIECE.finditer(text):
            if piece["final"]:
                answer += self.obey(piece["final"], piece["arguments"])
            elif piece["control"]:
                self.control(piece["control"])
            else:
                for character in piece["text"] or "":
                    self.put(character)
        return answer

    def put(self, character: str) -> None:
        if self.column >= self.columns:
            if self.wraps:
                self.column = 0
                self.down()
            else:
                self.column = self.columns - 1
        self.cells[self.row][self.column] = character
        self.column += 1

    def down(self) -> None:
        if self.row + 1 < self.rows:
            self.row += 1
        else:
            self.gone.append("".join(self.cells.pop(0)).rstrip())
            self.cells.append([" "] * self.columns)

    def control(self, character: str) -> None:
        if character == "\n":
            self.down()
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character == "\t":
            self.column = min(self.columns - 1, self.column // 8 * 8 + 8)

    def obey(self, final: str, arguments: str) -> str:
        if arguments.startswith("?"):
            if arguments == "?7":
                self.wraps = final == "h"
            return ""
        numbers = [int(number or 0) for number in arguments.split(";")] if arguments else []
        count = max(1, numbers[0]) if numbers else 1
        column = min(self.column, self.columns - 1)
        if final in "AB":
            self.row = max(0, min(self.rows - 1, self.row + (count if final == "B" else -count)))
        elif final in "CD":
            self.column = max(0, min(self.columns - 1, column + (count if final == "C" else -count)))
        elif final == "G":
            self.column = count - 1
        elif final == "H":
            self.row, self.column = count - 1, (max(1, numbers[1]) if len(numbers) > 1 else 1) - 1
        elif final == "K":
            whole = bool(numbers and numbers[0] == 2)
            start = 0 if whole else column
            self.cells[self.row][start:] = [" "] * (self.columns - start)
        elif final == "J":
            if numbers and numbers[0] == 2:
                self.cells = [[" "] * self.columns for _ in range(self.rows)]
            else:
                self.cells[self.row][column:] = [" "] * (self.columns - column)
                for row in range(self.row + 1, self.rows):
                    self.cells[row] = [" "] * self.columns
        elif final == "n" and numbers == [6]:
            return f"\x1b[{self.row + 1};{column + 1}R"
        return ""

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]


class Terminal:
    """A program at a terminal of its own, and hands on its keyboard."""

    def __init__(
        self, words: Sequence[str], folder: Path, rows: int = 24, columns: int = 80, **environment: str
    ) -> None:
        self.screen = Screen(rows, columns)
        self.wrote = ""  # everything, escape codes included
        self.master, slave = os.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *words],
            cwd=folder,
            env=quiet_environment(folder) | environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)

    @property
    def text(self) -> str:
        """The screen, with line ends."""
        return "\n".join(self.screen.lines)

    @property
    def words(self) -> str:
        """Everything that was ever on the screen and what is there now, folds undone."""
        return " ".join(" ".join([*self.screen.gone, *self.screen.lines]).split())

    def read(self, seconds: float) -> bool:
        """Take what the program writes within so long; False at its end."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux says so when the last program at the terminal has ended
            return False
        text = data.decode("utf-8", errors="replace")
        self.wrote += text
        answer = self.screen.feed(text)
        if answer:
            os.write(self.master, answer.encode())
        return bool(data)

    def wait(self, words: str, patience: float | None = None) -> None:
        """Until the words stand on the screen."""
        self.until(lambda: words in self.text, f"{words!r}", patience)

    def until(self, is_so: object, what: str, patience: float | None = None) -> None:
        assert callable(is_so)
        end = time.monotonic() + (patience or PATIENCE)
        while not is_so():
            assert time.monotonic() < end, f"waited for {what}; the screen:\n{self.text}"
            assert self.read(0.1) or is_so(), f"the program ended before {what}; the screen:\n{self.text}"

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def pointed(self) -> str:
        """The line of a list that the pointer is at."""
        return next((line.strip(" »^v") for line in self.screen.lines if line.startswith(" »")), "")

    def choose(self, question: str, title: str) -> None:
        """Go to the line that begins with `title` and press Enter."""
        self.wait(f"? {question} (")
        self.until(lambda: self.pointed, "the list")
        presses = 0  # a line that was read while it was drawn is met again on the next round
        while not self.pointed.startswith(title):
            presses += 1
            assert presses < MOST_PRESSES, f"no line {title!r}; the screen:\n{self.text}"
            before = self.pointed
            self.type(DOWN)
            self.until(lambda before=before: self.pointed not in ("", before), f"the pointer to leave {before!r}")  # type: ignore[misc]
        self.type(ENTER)
        self.until(lambda: f"? {question} (" not in self.text, f"the answer to {question!r}")

    def answer(self, question: str, text: str) -> None:
        """Type a line where `question` asks for one; its default goes."""
        self.wait(f"? {question}")
        self.type(CLEAR + text + ENTER)

    def end(self) -> int:
        """The exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.read(0.1) and self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; the screen:\n{self.text}"
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return int(self.process.returncode)


def own_terminal() -> None:
    """Ctrl-C typed into the terminal reaches the program, as in a window."""
    ioctl(0, termios.TIOCSCTTY, 0)


def quiet_environment(folder: Path) -> Mapping[str, str] | dict[str, str]:
    """Nothing of the machine at hand: no hub, no cache, one thread, a terminal with colours."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    home = folder / ".home"
    return kept | {
        "TERM": "xterm-256color",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "huggingface"),
        "AUTO_BOT_TUNER_CACHE": str(home / "cache"),
    }
