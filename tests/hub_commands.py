"""Commands against the stand-in hub, in one process of their own: huggingface_hub reads HF_ENDPOINT when imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOWHERE = "http://127.0.0.1:9"  # nothing listens there: the connection is refused at once

SCRIPT = """
import contextlib, io, json, os, shlex, sys
sys.path.insert(0, {root!r})
import src, main
for command in json.loads(sys.argv[1]):
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        code = main.main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


class Done(NamedTuple):
    """What became of a command."""

    code: int
    out: str
    err: str

    def failed_with(self, *phrases: str, code: int = 1) -> None:
        """One line that says all this."""
        assert self.code == code and self.err.count("\n") == 1, self
        assert self.err.startswith("error: ") and "unexpected" not in self.err, self.err
        for phrase in phrases:
            assert phrase in self.err, self.err


def run_commands(*commands: str, endpoint: str, home: Path, cwd: Path) -> list[Done]:
    """Each `python main.py COMMAND`. What stands before it as NAME=VALUE is set for it and those that follow."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",  # the stand-in takes large files by git LFS
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, "-c", SCRIPT.format(root=str(ROOT)), json.dumps(commands)]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]
