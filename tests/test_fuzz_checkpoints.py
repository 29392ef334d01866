"""Fuzz of what a run left behind: every file of its folder damaged, through every verb that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_bot_tuner.assets import bundled_model
from tests.fuzzing import damaged, lawful, outcome, quick, thorough, tree, values

TRAIN = "--model tiny --max-samples 12 --batch-size 4 --grad-accum 1 --max-steps 2 --save-steps 1 --num-samples 1"
MAKE = {
    "sft": f"train-sft {TRAIN} --dataset tiny-instructions --no-lora --eval-fraction 0.2",
    "lora": f"train-sft {TRAIN} --dataset tiny-instructions --lora",
    "reward": f"train-reward {TRAIN} --dataset tiny-preferences",
}
LOOKS = {  # what only reads; seconds in all
    "report": "report run",
    "inspect": "inspect --model run/final --dataset tiny-instructions --max-samples 2",
    "push": "push run me/mine --dry-run",
    "lineage": "train-sft --model run/final --preset quick --dataset nowhere.jsonl --dry-run",
    "config": "train-config run/config.yaml --dry-run --dataset nowhere.jsonl",
    "perplexity": "evaluate perplexity --model run/final --dataset tiny-text --max-samples 2",
    "chat": "chat run/final",
}
WORKS = {
    "export": "convert export --checkpoint run/final --format safetensors --output out",
    "ollama": "convert export --checkpoint run/final --format ollama --output out --name mine",
    "merge": "convert merge-lora --lora-checkpoint run/final --output out",
    "scores": "evaluate reward --model run/final --dataset tiny-preferences --max-samples 4",
    "train on": "train-sft --model run/final --dataset tiny-instructions --max-samples 8 --max-steps 1 "
    "--num-samples 0 --output-dir out",
    "best of": "train-grpo --model run/final --dataset tiny-puzzles --reward run --dry-run --max-samples 4",
    "judge": "evaluate generation --model tiny --dataset tiny-prompts --max-samples 2 --max-new-tokens 4",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where whole runs lie, each made when it is first asked for."""
    return tmp_path_factory.mktemp("made")


def whole(made: Path, name: str) -> Path:
    """A small run."""
    if not (made / name).exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(made)
            assert outcome([*MAKE[name].split(), "--output-dir", name]).code == 0
    return made / name


@pytest.fixture
def desk(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return made


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs)[:200]:  # a vocabulary has thousands of the same kind
        yield value, key
        yield from places(inner)


def rewritten(text: str, draw: Any) -> str:
    """JSON (or YAML, or JSON lines) with some values replaced, removed or added."""
    lines = text.split("\n") if "\n{" in text and text.startswith("{") and "\n}" not in text else [text]
    at = draw(st.integers(0, len(lines) - 1))
    try:
        found = json.loads(lines[at])
    except ValueError:
        import yaml

        found = yaml.safe_load(lines[at])
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(found)) or [([None], 0)]))
        kind = draw(st.integers(0, 7))
        if kind == 0 and key in container:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[draw(st.text(max_size=5))] = draw(values)
        else:
            container[key] = draw(values)
    lines[at] = json.dumps(found)
    return "\n".join(lines)


@st.composite
def damages(draw: Any, made: Path, names: tuple[str, ...]) -> tuple[str, dict[str, bytes | None]]:
    """(which run, {file: what it holds now; None: nothing})."""
    name = draw(st.sampled_from(names))
    found = tree(whole(made, name))
    files = {path: raw for path, raw in found.items() if "tfevents" not in path and "html" not in path}
    changes: dict[str, bytes | None] = {}
    structured = [path for path in files if path.endswith((".json", ".yaml", ".jsonl")) and files[path]]
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.integers(0, 2)):
            path = draw(st.sampled_from(structured))
            changes[path] = rewritten(files[path].decode(), draw).encode("utf-8", "surrogatepass")
        else:
            path = draw(st.sampled_from(list(files)))
            changes[path] = draw(st.one_of(st.none(), st.just(damaged(files[path], draw))))
    return name, changes


def try_all(made: Path, name: str, changes: dict[str, bytes | None], commands: dict[str, str]) -> None:
    """Each command keeps the law; those that only read leave the run as it was."""
    for command in commands.values():
        shutil.copytree(made / name, "run")
        for path, content in changes.items():
            Path("run", path).unlink() if content is None else Path("run", path).write_bytes(content)
        before = tree(Path("run"))
        try:
            lawful(command.split())
            after = tree(Path("run"))
            after.pop("report.html"), before.pop("report.html")
            if "--resume" not in command:
                assert after == before
            assert not list(Path().glob(".*.part")) and not Path("pwned").exists()
        finally:
            shutil.rmtree("run")
            shutil.rmtree("out", ignore_errors=True)


def inventory(made: Path, name: str, changes: dict[str, bytes | None]) -> None:
    """What the menu knows of the run."""
    from src.menu import home, stock

    shutil.copytree(made / name, "runs/mine")
    try:
        for path, content in changes.items():
            file = Path("runs/mine", path)
            file.unlink() if content is None else file.write_bytes(content)
        found = stock.look_around()
        assert "\x1b" not in home.picture(found, 20).plain
        for run in found.runs:
            stock.told(run), run.lineage
    finally:
        shutil.rmtree("runs")


FOUND = [  # file, what stands in it now, how the refusal names it (empty: the work is done all the same)
    ("config.json", {"architectures": 3}, "architectures"),
    ("config.json", {"return_dict": False}, ""),
    ("config.json", {"output_attentions": True, "output_hidden_states": True}, ""),
    ("tokenizer_config.json", {"model_max_length": "x"}, "model_max_length"),
]


@pytest.mark.parametrize(("file", "values", "told"), FOUND)
def test_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, values: Any, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = bundled_model("tiny")
    assert found is not None
    shutil.copytree(found, "run/final")
    path = Path("run/final", file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    done = lawful(WORKS["export"].split())
    assert (done.code == 1) == bool(told) and told in done.err, done


@quick(3)
@given(data=st.data())
def test_any_damage_is_told(desk: Path, data: Any) -> None:
    whole(desk, "sft")  # not in the strategy: training seeds
    name, changes = data.draw(damages(desk, ("sft",)))
    inventory(desk, name, changes)
    try_all(desk, name, changes, {key: LOOKS[key] for key in ("report", "push", "lineage", "config", "inspect")})


@pytest.mark.long
@pytest.mark.timeout(7200)
@thorough(500)
@given(data=st.data())
def test_any_damage_is_told_by_every_verb(desk: Path, data: Any) -> None:
    for name in MAKE:
        whole(desk, name)
    name, changes = data.draw(damages(desk, tuple(MAKE)))
    inventory(desk, name, changes)
    method = "reward --dataset tiny-preferences" if name == "reward" else "sft --dataset tiny-instructions"
    resume = f"train-{method} {TRAIN} --output-dir run --resume"
    resume += {"sft": " --no-lora --eval-fraction 0.2", "lora": " --lora", "reward": ""}[name]
    try_all(desk, name, changes, {**LOOKS, **WORKS, "resume": resume})
