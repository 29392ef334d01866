"""What README and the lessons command runs: each command and each snippet, shortened, hub names from the stand-in hub.

README's run in the fast suite, the lessons' in `make test-long`; that all of them parse is looked at here for both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import commands
from commands.examples import EXAMPLES
from tests.documents import ROOT, Block, Command, all_commands, blocks, commands_of, documents, main_words
from tests.hub_standin import Repository, make_hub, serve
from tests.models import save_tiny_model
from tests.word_runs import job_of, make_files, preparation, reason_not_to_run, work

README = "README.md"
LESSONS = [document for document in documents() if document != README]
EVERY_COMMAND = [command for document in documents() for command in all_commands(document)]


def jobs_of(documents: list[str]) -> list[tuple[Command | Block, dict[str, Any]]]:
    """The commands in the order of the pages, then their snippets, which train over the models that the commands read;
    a line that stands in several places runs once."""
    found: dict[str, tuple[Command | Block, dict[str, Any]]] = {}
    for block in (block for document in documents for block in blocks(document)):
        if block.kind == "python":
            job = {"kind": "python", "document": block.document, "text": block.text}
            found[str(block)] = (block, job)
        for command in commands_of(block):
            if main_words(command.text) is not None and not reason_not_to_run(command):
                found.setdefault(command.text, (command, job_of(command)))
    return sorted(found.values(), key=lambda pair: pair[1]["kind"] == "python")


@pytest.fixture
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows and functions that the documents assume."""
    (mine,) = [block.text for block in blocks(README) if block.kind == "json" and "Ida" in block.text]
    folder = tmp_path_factory.mktemp("words")
    make_files(folder, mine + "\n")
    return folder


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The stand-in hub, and on it what the documents name besides."""
    folder = tmp_path_factory.mktemp("hub")
    hub = make_hub(folder)
    hub.add(Repository("models", "Qwen/Qwen2.5-0.5B", save_tiny_model(folder / "qwen", "qwen2")))
    hub.add(Repository("datasets", "openai/gsm8k", folder / "maths"))
    with serve(hub) as running:
        yield running.url


def what_went_wrong(documents: list[str], workshop: Path, endpoint: str) -> list[str]:
    jobs = [*((job["text"], job) for job in preparation()), *jobs_of(documents)]
    answers = work([job for _, job in jobs], workshop, endpoint)
    return [
        f"{place}: exit {answer['code']}\n{answer['err'][-600:]}"
        for (place, _), answer in zip(jobs, answers, strict=True)
        if answer["code"] != 0
    ]


@pytest.mark.timeout(900)
def test_every_command_and_snippet_of_the_readme_runs(workshop, endpoint):
    assert len(jobs_of([README])) > 25
    wrong = what_went_wrong([README], workshop, endpoint)
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_command_and_snippet_of_the_lessons_runs(workshop, endpoint):
    assert len(jobs_of(LESSONS)) > 30
    wrong = what_went_wrong(LESSONS, workshop, endpoint)
    assert not wrong, "\n".join(wrong)


# ---- what needs no run ----


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder with what parsing looks at: a run's config says from which model it comes, and so which preset fits."""
    for run in ("checkpoints/sft", "checkpoints/sft/tiny"):
        (tmp_path / run / "final").mkdir(parents=True)
        (tmp_path / run / "config.yaml").write_text(
            "method: sft\nmodel: {name: tiny}\ndataset: {name: tiny-instructions}\n"
        )
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=str)
def test_every_command_is_understood(command, trained):
    """Words of main.py parse; every other command is one that is known, and has what it names."""
    words = main_words(command.text)
    if words:
        commands.parse(words[0], words[1:])
    else:
        assert reason_not_to_run(command), (
            f"{command}: what is this? Say in tests/word_runs.py how it is run, or why not"
        )
    if command.text.startswith("make "):
        assert re.search(rf"^{command.text.split()[1]}:", (ROOT / "Makefile").read_text(), re.M), command
    for module in re.findall(r"python -m (proof|benchmarks|tests)((?:\.\w+)?)\b", command.text):
        assert (ROOT / "".join(module).replace(".", "/")).with_suffix(".py").exists() or (
            ROOT / "".join(module).replace(".", "/") / "__main__.py"
        ).exists(), command
    for name in re.findall(r"tests/test_\w+\.py", command.text):
        assert (ROOT / name).exists(), command
    if extra := re.search(r"uv pip install (\S+)$", command.text):
        assert extra[1] in (ROOT / "pyproject.toml").read_text(), command


@pytest.mark.parametrize("verb", EXAMPLES)
def test_the_examples_of_every_help_page_parse(verb, trained):
    for example in EXAMPLES[verb]:
        words = main_words(f"main.py {example}")
        assert words and words[: len(verb.split())] == verb.split(), example
        commands.parse(words[0], words[1:])


DATA = [block for document in documents() for block in blocks(document) if block.kind in ("yaml", "json")]


@pytest.mark.parametrize("block", DATA, ids=str)
def test_every_yaml_and_json_snippet_is_what_its_reader_takes(block, tmp_path):
    if block.kind == "json":
        rows = [json.loads(line) for line in block.text.splitlines()]
        from auto_bot_tuner.data.sources import load_split

        path = tmp_path / "rows.jsonl"
        path.write_text(block.text + "\n")
        assert len(load_split(str(path))) == len(rows)
        return
    content = yaml.safe_load(block.text)
    if "training" in content or "model" in content:
        from auto_bot_tuner.utils.run_config import load_run_config

        path = tmp_path / f"{content.get('method', 'sft')}.yaml"
        path.write_text(block.text)
        load_run_config(path)
    else:  # a task of lm-eval, or a launch file of accelerate
        assert "task" in content or "compute_environment" in content, block
