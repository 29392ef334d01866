"""Are the tests any good? Break the code in every small way, and count how often no test notices.

    python -m proof.mutation [--survivors] [FILE …]     the files of TESTS; long: about half an hour in all

Of each file: every mutant that mutmut's operators make in its functions (`mutation_mutants.py`), and for each whether
the tests named here fail on it (`mutation_runner.py`), in a copy of the repository. Writes `mutation.json`. A survivor
is a missing test, or an edit that changes nothing that anybody could see; `mutation_survivors.yaml` says why, one by
one. With `--survivors` only those of the last run are tried again, after tests were added: a file that has changed
since is run whole.

Exit code 1 where a file is below 90 % or a survivor is without a reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "proof" / "mutation.json"
REASONS = ROOT / "proof" / "mutation_survivors.yaml"
LEAST = 0.9  # of the mutants of each file are to be killed
PATIENCE = 4  # seconds of the processor, and as many times what the tests take without a mutant: more is endless
PACKAGE = "src/auto_bot_tuner"
# The files whose rules nothing else would notice to be broken, and the tests that are about each.
TESTS = {
    "sft/loss.py": ["test_sft_loss"],
    "dpo/loss.py": ["test_dpo_loss"],
    "grpo/loss.py": ["test_grpo_loss", "test_policy_gradient_oracles"],
    "rlhf/loss.py": ["test_reward_loss"],
    "rlhf/ppo_loss.py": ["test_ppo_loss", "test_policy_gradient_oracles"],
    "training/batching.py": ["test_batching"],
    "training/flat.py": ["test_flat"],
    "training/logprobs.py": ["test_trained_tokens", "test_sequence_logprobs", "test_sft_loss"],
    "rollouts/minibatches.py": ["test_minibatches"],
    "rollouts/statistics.py": ["test_rollout_statistics"],
    "data/response_groups.py": ["test_masks"],
    "data/tokenization.py": ["test_masks"],
    "data/truncation.py": ["test_masks"],
}
FILES = {f"{PACKAGE}/{name}": [f"tests/{test}.py" for test in tests] for name, tests in TESTS.items()}
Reasons = dict[tuple[str, str, str, str], str]  # (file, function, before, after) → why


def main(arguments: Sequence[str]) -> int:
    again = "--survivors" in arguments
    files = [str(Path(name)) for name in arguments if name != "--survivors"] or list(FILES)
    if unknown := [name for name in files if name not in FILES]:
        print(f"error: {unknown[0]} has no tests named for it; the files are: {', '.join(FILES)}", file=sys.stderr)
        return 2
    reasons = read_reasons(REASONS)
    with copy_of(ROOT) as scratch:
        for name in files:
            last = outcomes_of(RECORD, name) if again else {}
            entry, survivors = mutate(scratch, name, FILES[name], last)
            write_record(RECORD, entry, survivors, reasons)
            unexplained = sum(key_of(survivor) not in reasons for survivor in survivors)
            print(
                f"{name}: {caught(entry)} of {entry['mutants']} killed ({share(entry):.1%}), {unexplained} unexplained"
            )
    record = json.loads(RECORD.read_text())
    low = [entry["file"] for entry in record["files"] if share(entry) < LEAST]
    open_ones = [survivor for survivor in record["survivors"] if not survivor["why"]]
    return 1 if low or open_ones else 0


def mutate(
    scratch: Path, file: str, tests: list[str], last: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record's entry of one file, and its survivors. `last`: see `outcomes_of`; empty to run all."""
    from proof.mutation_mutants import mutants_of

    source = (scratch / file).read_text()
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    mutants = mutants_of(file, source)
    is_same = last.get("sha256") == sha256 and last["mutants"] == len(mutants)
    tried = [m for m in mutants if not is_same or (m.function, m.line, m.before, m.after) in last["survivors"]]
    print(f"{file}: {len(tried)} of {len(mutants)} mutants", flush=True)
    outcomes = list(run(scratch, file, tests, [mutant._asdict() for mutant in tried]))
    survivors = [
        {"file": file, "line": m.line, "function": m.function, "before": m.before, "after": m.after}
        for m, outcome in zip(tried, outcomes, strict=True)
        if outcome == "survived"
    ]
    timeout = outcomes.count("timeout") + (last["timeout"] if is_same else 0)
    return {
        "file": file,
        "sha256": sha256,
        "made": now(),
        "tests": tests,
        "mutants": len(mutants),
        "killed": len(mutants) - timeout - len(survivors),
        "timeout": timeout,
        "survived": len(survivors),
    }, survivors


def run(
    scratch: Path, file: str, tests: list[str], mutants: list[dict[str, Any]], patience: int = PATIENCE
) -> Iterator[str]:
    """The outcome of each mutant, as the runner's process tells them.

    Raises:
        RuntimeError: the tests fail on the file as it is, or the runner ended early.
    """
    read, write = os.pipe()
    folder = Path(tempfile.mkdtemp(dir=scratch))
    module = file.removeprefix("src/").removesuffix(".py").replace("/", ".")
    task = {"file": file, "module": module, "tests": tests, "mutants": mutants, "patience": patience}
    (folder / "task.json").write_text(json.dumps({**task, "scratch": str(folder), "report_to": write}))
    environment = os.environ | {
        "PYTHONPATH": f"{scratch / 'src'}:{scratch}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONHASHSEED": "0",
    }
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "proof.mutation_runner", str(folder / "task.json")]
        process = subprocess.Popen(
            command, cwd=scratch, env=environment, pass_fds=[write], stdout=log, stderr=subprocess.STDOUT
        )
    os.close(write)
    told = 0
    with os.fdopen(read) as lines:
        for line in lines:
            report = json.loads(line)
            if "error" in report or report.get("outcome") == "broken":
                raise RuntimeError(report.get("error") or f"a mutant cannot be put in place, see {folder / 'log.txt'}")
            if "outcome" in report:
                told += 1
                if told % 50 == 0:
                    print(f"  {told} of {len(mutants)}", flush=True)
                yield report["outcome"]
    process.wait()
    if told != len(mutants):
        raise RuntimeError(f"the runner ended early:\n{(folder / 'log.txt').read_text()[-2000:]}")


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """The files of the repository that git knows or does not ignore, somewhere else."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    )
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (root / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes((root / name).read_bytes())
        yield Path(folder)


# ---- the record ----


def outcomes_of(path: Path, file: str) -> dict[str, Any]:
    """What the record says of a file: its hash, how many mutants and timeouts, and the survivors; empty if nothing."""
    record = json.loads(path.read_text()) if path.exists() else {"files": [], "survivors": []}
    entry = next((entry for entry in record["files"] if entry["file"] == file), None)
    if entry is None:
        return {}
    of_file = [s for s in record["survivors"] if s["file"] == file]
    return entry | {"survivors": {(s["function"], s["line"], s["before"], s["after"]) for s in of_file}}


def read_reasons(path: Path) -> Reasons:
    entries = yaml.safe_load(path.read_text()) if path.exists() else []
    return {key_of(entry): entry["why"] for entry in entries or []}


def key_of(survivor: dict[str, Any]) -> tuple[str, str, str, str]:
    return survivor["file"], survivor["function"], survivor["before"], survivor["after"]


def write_record(path: Path, entry: dict[str, Any], survivors: list[dict[str, Any]], reasons: Reasons) -> None:
    """Put a file's result in the place of its last one; all survivors get their reasons, as they are by now."""
    old = json.loads(path.read_text()) if path.exists() else {"files": [], "survivors": []}
    results = {e["file"]: e for e in old["files"]} | {entry["file"]: entry}
    others = [survivor for survivor in old["survivors"] if survivor["file"] != entry["file"]]
    order = list(FILES)

    def place(each: dict[str, Any]) -> int:
        return order.index(each["file"]) if each["file"] in order else len(order)

    record = {
        "made": now(),
        "command": "python -m proof.mutation",
        "files": sorted(results.values(), key=place),
        "survivors": [
            {**each, "why": reasons.get(key_of(each), "")} for each in sorted([*others, *survivors], key=place)
        ],
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def caught(entry: dict[str, Any]) -> int:
    """Mutants that a failing test or the time limit gave away."""
    return int(entry["killed"] + entry["timeout"])


def share(entry: dict[str, Any]) -> float:
    return caught(entry) / max(entry["mutants"], 1)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RuntimeError as error:
        sys.exit(f"error: {error}")
