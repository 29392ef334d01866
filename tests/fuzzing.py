"""The law of bad input, for fuzzers: whatever is given, a command ends, with one clear line or with its work done.

`lawful` runs a command in this process, which has the libraries loaded already: hundreds of commands in seconds.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import main
from auto_bot_tuner.utils.terminal import PICTURES

# Every run of the fast suite tries the same few examples; `thorough` is for `make test-long`.
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
PATIENCE = 60.0  # seconds of computing until a command counts as hanging; none takes ten


# Without Phase.explain, which traces every line that runs: here those are all of transformers' and matplotlib's.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]


def quick(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=CHECKS,
        phases=PHASES,
    )


def thorough(examples: int) -> settings:
    count = int(os.environ.get("AUTO_BOT_TUNER_FUZZ", examples))
    return settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=CHECKS, phases=PHASES)


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


class Hung(BaseException):
    """Not an Exception: nothing in the program may swallow it."""


@contextlib.contextmanager
def patience(seconds: float = PATIENCE) -> Iterator[None]:
    """Raise `Hung` in what computes longer; what waits longer is pytest-timeout's."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Hung(f"still computing after {seconds} s")

    before = signal.signal(signal.SIGPROF, give_up)
    left, _ = signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, left)
        signal.signal(signal.SIGPROF, before)


def outcome(argv: Sequence[str], seconds: float = PATIENCE) -> Outcome:
    """Run `python main.py ARGV` here, without a terminal and with nothing to read."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patience(seconds),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        open(os.devnull) as nothing,
    ):
        stdin, main.sys.stdin = main.sys.stdin, nothing
        try:
            code = main.main(list(argv))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else -1
        finally:
            main.sys.stdin = stdin
    if code == 128 + signal.SIGTERM:  # meant for this process: the command took it for its own
        raise KeyboardInterrupt("terminated")
    return Outcome(code, out.getvalue(), err.getvalue())


def lawful(argv: Sequence[str], seconds: float = PATIENCE) -> Outcome:
    """`outcome`, which must keep the law."""
    code, out, err = result = outcome(argv, seconds)
    assert code in (0, 1, 2), result
    told = [line for line in err.split("\n") if line]
    if code:
        assert err.startswith("error: ") and err.count("\n") == 1, result
        assert len(err) < 1500, result
        assert len(told[0]) > 15, result
    assert "Traceback" not in out + err, result
    assert "(unexpected;" not in err, result
    assert not set(map(ord, out + err)) & PICTURES.keys(), result
    return result


# --- values that nobody expects --------------------------------------------------------------------------------------

ODD_TEXTS = [
    "",
    " ",
    "\0",
    "\n",
    "\ud800",
    "\udfff\ud800",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\u202egnp.exe",
    "\u2028",
    "\ufeffbom",
    "\U000f1d07" + "0" + "\U000f1d07",
    "é" * 3,
    "日本語",
    "🤖" * 3,
    "<|endoftext|>",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "{% for x in range(10) %}",
    "%s%n{0}",
    "../../etc/passwd",
    "a" * 3000,
    "nan",
    "-inf",
    "1e999",
    "null",
    "true",
    "\n\nHuman: hi\n\nAssistant: yes",
    "Human:",
    "Human: \n\nAssistant:",
    "\n\nAssistant: first\n\nHuman: second",
    "### Instruction:\n### Response:\n",
    "[bold]rich[/bold][/]",
]
texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(max_size=12), st.text(alphabet=string.ascii_letters + " .,", max_size=40)
)
numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.0, -0.0, 1e308, float("nan"), float("inf")]),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def damaged(data: bytes, draw: Any) -> bytes:
    """`data` as bad media leave it: cut, some bytes changed, emptied, doubled, or something else altogether."""
    kind = draw(st.sampled_from(["cut", "flip", "empty", "double", "zeros", "pickle", "word", "text"]))
    size = len(data)
    if kind == "cut":
        return data[: draw(st.integers(0, max(size - 1, 0)))]
    if kind == "flip" and size:
        changed = bytearray(data)
        for _ in range(draw(st.integers(1, 4))):
            # The head is where a format's numbers stand.
            place = draw(st.one_of(st.integers(0, min(size, 64) - 1), st.integers(0, size - 1)))
            changed[place] = draw(st.integers(0, 255))
        return bytes(changed)
    if kind == "double":
        return data + data
    if kind == "zeros":
        return bytes(size)
    if kind == "pickle":
        return b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."
    if kind == "text":
        return draw(texts).encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([b"null", b"[]", b"{}", b'"x"', b"3", b"[" * 100_000, b"{" * 50, b"\xff\xfe\x00"]))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, with what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
