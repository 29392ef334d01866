"""How the tests run what documents command: shortened, in a folder that holds what the documents assume."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.documents import ROOT, Command, blocks, main_words

# Put behind each command, in place of what it says there itself.
TRAIN = {"--max-steps": "2", "--max-samples": "12", "--eval-max-samples": "2", "--num-samples": "1"}
ROWS_AT_ONCE = {"--batch-size": "2", "--grad-accum": "1"}
ROLLOUTS = {"--max-new-tokens": "8", "--minibatches": "1", "--batch-size": "2", "--grad-accum": "1"}
SHORTER = {
    "train-sft": {**TRAIN, **ROWS_AT_ONCE},
    "train-reward": {**TRAIN, **ROWS_AT_ONCE},
    "train-dpo": {**TRAIN, **ROWS_AT_ONCE},
    "train-config": {**TRAIN, **ROWS_AT_ONCE},
    "train-ppo": {**TRAIN, **ROLLOUTS, "--epochs-per-rollout": "1"},
    "train-grpo": {**TRAIN, **ROLLOUTS, "--batch-size": "4", "--group-size": "4"},
    "evaluate perplexity": {"--max-samples": "4"},
    "evaluate compare": {"--max-samples": "4", "--max-new-tokens": "8"},
    "evaluate generation": {"--max-samples": "4", "--max-new-tokens": "8"},
    "evaluate accuracy": {"--max-samples": "4", "--max-new-tokens": "8"},
    "evaluate winrate": {"--max-samples": "4", "--max-new-tokens": "8"},
    "evaluate reward": {"--max-samples": "12"},
    "evaluate benchmark": {"--limit": "2"},
    "frontier": {"--max-samples": "4", "--max-steps": "1", "--max-new-tokens": "8", "--best-of": "2"},
    "inspect": {"--rows": "1"},
}
# Run otherwise, with the reason; by the command's beginning.
NOT_HERE = {
    "make ": "a target: test_words_run looks that it is there; `make demo` is a long test, the others run these tests",
    "source .venv/bin/activate": "made by make install",
    "uv ": "fetches packages; test_words_run looks that the extra is in pyproject.toml",
    "python main.py reward-hacking": "minutes: tests/test_reward_hacking.py, and the record",
    "python main.py demo": "minutes: tests/test_demo.py, the long test, and the record",
    "python main.py evaluate benchmark --model": "the data of those tasks is on the hub; the verb: tests/test_world.py",
    "accelerate launch": "several processes: tests/test_two_processes.py; its words are parsed",
    "ACCELERATE_USE_CPU=true torchrun": "several processes: tests/test_two_processes.py; its words are parsed",
    "torchrun": "several processes: tests/test_two_processes.py; its words are parsed",
    ".venv/bin/python -m pytest": "this suite",
    "ollama ": "is not installed with the project",
    "python -m tests.record_rounding": "a minute: docs/records/rounding.txt",
    "python -m auto_bot_tuner.estimation.at_scale": "tables of a second: tests/test_at_scale.py",
    "python -m proof": "minutes: tests/test_proof.py",
    "python -m benchmarks": "hours, on a quiet machine",
}


def reason_not_to_run(command: Command) -> str:
    return next((reason for beginning, reason in NOT_HERE.items() if command.text.startswith(beginning)), "")


def job_of(command: Command) -> dict[str, Any]:
    """The command for the worker."""
    words = main_words(command.text)
    assert words is not None, f"{command}: how is this run? Teach it to tests/word_runs.py"
    before, _, _ = command.text.partition("python main.py")
    into = re.search(r">>?\s*(\S+)$", command.text)
    return {
        "kind": "main",
        "document": command.document,
        "text": command.text,
        "words": shortened(words),
        "feeder": before.strip().removesuffix("|") if "|" in before else "",
        "into": into[1] if into else "",
    }


def shortened(words: list[str]) -> list[str]:
    """The words with what makes them a run of a second; what a run writes goes beside what the documents assume."""
    verb = next((verb for verb in SHORTER if words[: len(verb.split())] == verb.split()), "")
    settings = dict(SHORTER.get(verb, {}))
    if verb in ("frontier", "inspect", "evaluate accuracy", "evaluate compare", "evaluate winrate"):
        settings = {flag: value for flag, value in settings.items() if takes(verb, words, flag)}
    kept: list[str] = []
    at = 0
    while at < len(words):
        if words[at] in settings:
            at += 1
            while at < len(words) and not words[at].startswith("--"):
                at += 1
            continue
        kept.append(words[at])
        at += 1
    if words[0] == "convert" and (output := kept[kept.index("--output") + 1]) in sum(COPIES.values(), ()):
        kept[kept.index("--output") + 1] = f"out/{output}"
    if verb.startswith("train-"):
        if verb == "train-grpo":
            settings["--overlong-buffer"] = "0"
        if "--from-best-of" in kept:
            settings["--best-of-max-new-tokens"] = "24"
        if "--output-dir" in kept:
            kept[kept.index("--output-dir") + 1] = f"out/{kept[kept.index('--output-dir') + 1]}"
        else:
            settings["--output-dir"] = f"out/{words[0]}"
        settings["--overwrite"] = ""
    return [*kept, *(word for pair in settings.items() for word in pair if word)]


def takes(verb: str, words: list[str], flag: str) -> bool:
    """Whether a flag goes with what the command asks for already."""
    if flag == "--max-samples" and "--prompt" in words:
        return False
    if verb == "inspect":
        return "ppo" not in words
    if verb == "frontier":
        return flag in words or flag == "--max-samples" or flag == "--max-new-tokens"
    return True


def work(jobs: list[dict[str, Any]], folder: Path, endpoint: str) -> list[dict[str, Any]]:
    """What became of each job, all in one process whose current folder is `folder`."""
    listed = folder / "jobs.json"
    listed.write_text(json.dumps(jobs))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "hf_write",
        "HF_HUB_DISABLE_XET": "1",
        "HOME": str(folder),
        "AUTO_BOT_TUNER_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
    }
    words = [sys.executable, "-m", "tests.word_worker", str(listed)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"code"')]
    assert len(answers) == len(jobs), done.stderr[-2000:]
    return answers


# ---- what the documents assume ----

MINE = """def score(prompt, response):
    return 1.0 / (1 + len(response))


def function(prompt, response):
    return 1.0
"""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_files(folder: Path, mine: str) -> None:
    """Rows of one's own, `mine` being those that README writes, and functions of one's own."""
    assets = ROOT / "src" / "auto_bot_tuner" / "assets"

    def bundled(name: str, count: int) -> list[dict[str, Any]]:
        with next((assets / name).glob("train*")).open(encoding="utf-8") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]

    rows = bundled("tiny-instructions", 400)
    sums = [row for row in rows if re.search(r"\d", row["output"]) and not row["input"]][:24]
    (folder / "mine.jsonl").write_text(mine, encoding="utf-8")
    for name in ("my_rows.jsonl", "alpaca-5k.jsonl", "rows.jsonl"):
        write_rows(folder / name, rows[:24])
    write_rows(folder / "held_out_rows.jsonl", rows[24:36])
    for name in ("my_questions.jsonl", "my_prompts.jsonl"):
        write_rows(folder / name, [{"question": row["instruction"], "answer": row["output"]} for row in sums])
    pairs = bundled("tiny-preferences", 40)
    write_rows(folder / "my_pairs.jsonl", pairs[:24])
    write_rows(folder / "held_out_pairs.jsonl", pairs[24:])
    write_rows(folder / "opposites.jsonl", opposites())
    (task,) = [
        block.text for block in blocks("docs/evaluation.md") if block.kind == "yaml" and "opposites" in block.text
    ]
    (folder / "opposites.yaml").write_text(task + "\n", encoding="utf-8")
    for name in ("mine.py", "rewards.py"):
        (folder / name).write_text(MINE)
    (folder / "configs").symlink_to(ROOT / "configs")


def opposites(count: int = 12) -> list[dict[str, Any]]:
    """Questions of the bundled world in the form of docs/evaluation.md's task: the right one, and another word's."""
    from auto_bot_tuner.assets.facts import OPPOSITES

    words = sorted(OPPOSITES)[: 2 * count : 2]
    others = [OPPOSITES[word] for word in words[1:] + words[:1]]
    return [
        {"question": f"The opposite of {word} is", "choices": [f" {OPPOSITES[word]}.", f" {other}."], "answer": 0}
        for word, other in zip(words, others, strict=True)
    ]


RUN, SCORER = "checkpoints/demo/sft", "checkpoints/demo/reward"
PREPARATION = (
    f"train-sft --model tiny --preset quick --max-samples 500 --max-steps 25 --batch-size 16 --grad-accum 1 "
    f"--learning-rate 2e-3 --num-samples 0 --eval-max-samples 2 --output-dir {RUN}",
    f"train-reward --model {RUN}/final --preset quick --max-samples 16 --max-steps 2 --batch-size 4 --grad-accum 1 "
    f"--num-samples 0 --eval-max-samples 2 --output-dir {SCORER}",
    f"train-sft --model {RUN}/final --dataset mine.jsonl --max-steps 1 --num-samples 0 --eval-fraction 0 "
    f"--output-dir checkpoints/mine",
)
COPIES = {
    RUN: (
        "checkpoints/demo/dpo", "checkpoints/demo/ppo", "checkpoints/demo/grpo", "checkpoints/sft/tiny",
        "checkpoints/dpo/tiny", "checkpoints/ppo/tiny", "checkpoints/grpo/tiny", "checkpoints/sft/quick",
        "checkpoints/my-dpo", "checkpoints/mine-dpo",
    ),
    SCORER: (
        "checkpoints/reward/tiny", "checkpoints/reward/quick", "checkpoints/reward", "checkpoints/my-reward",
        "checkpoints/mine-reward",
    ),
    "checkpoints/mine": ("lora",),
    f"{RUN}/final": ("checkpoints/merged", "merged", "CKPT", "stories260k"),
}  # fmt: skip


def preparation() -> list[dict[str, Any]]:
    """Jobs before those of a document: the models are made, and copied to all of their names."""
    runs = [{"kind": "main", "document": "", "text": line, "words": line.split()} for line in PREPARATION]
    return [*runs, *({"kind": "copy", "document": "", "text": made, "names": names} for made, names in COPIES.items())]
