"""Bad input, all of it through the command line: one clear line, the right exit code, nothing lost or overwritten.

Each case says what a person did wrong and which words the answer must have: the cause, and where to look. What is
broken inside a model's or an adapter's folder is tried one by one in test_model_loading.py, and the hub in test_hub.py.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import main
from auto_bot_tuner.training.run_folder import written_aside
from auto_bot_tuner.utils.errors import UserError
from tests.evaluations import write_rows
from tests.models import save_tiny_model

ROWS = [{"instruction": f"What is {i} plus 1?", "input": "", "output": f"It is {i + 1}."} for i in range(24)]
SHORT = "--no-lora --batch-size 4 --grad-accum 1 --max-steps 2 --num-samples 0 --max-length 64 --report-to"
TRAIN = f"train-sft --model model --dataset rows.jsonl --output-dir run {SHORT}"


@pytest.fixture(scope="module")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("shared") / "model", "gpt2")


@pytest.fixture
def desk(tmp_path: Path, shared_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's working directory: a model, a data set, and an earlier run's result to lose."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shared_model, "model")
    write_rows("rows.jsonl", ROWS)
    (tmp_path / "other-run/final").mkdir(parents=True)
    (tmp_path / "other-run/final/precious.txt").write_text("an earlier result")
    return tmp_path


def fail(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """(exit code, the one line) of a command that must fail; the earlier result must have survived it."""
    code = main.main(command.split())
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    assert "unexpected" not in message and len(message) < 450, message
    assert Path("other-run/final/precious.txt").read_text() == "an earlier result"
    return code, message


# --- data: what stands in the file -----------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    return {**ROWS[0], **changes}


def talk(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


BAD_ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "broken JSON": ('{"instruction": "x", "output": ', ("line 5", "broken JSON")),
    "no object": ("[1, 2]", ("line 5",)),
    "wrong columns": ({"question": "x", "reply": "y"}, ("line 5", "question")),
    "a column is missing": ({"instruction": "x", "input": ""}, ("line 5", "output")),
    "null": (row(output=None), ("line 5", "output")),
    "a number for text": (row(instruction=7), ("line 5", "instruction")),
    "roles out of order": (talk(("assistant", "a"), ("assistant", "b")), ("line 5", "messages")),
    "an unknown role": (talk(("wizard", "a"), ("assistant", "b")), ("line 5", "wizard")),
    "a message without content": ({"messages": [{"role": "user"}]}, ("line 5", "content")),
    "a role that is a list": (talk((["user"], "a"), ("assistant", "b")), ("line 5", "role")),
    "messages that are text": ({"messages": "user: hello"}, ("line 5", "messages")),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_in_an_else_good_file(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, words = BAD_ROWS[case]
    good = [talk(("user", "a"), ("assistant", "b"))] * 8 if isinstance(bad, dict) and "messages" in bad else ROWS[:8]
    lines = [json.dumps(line) for line in good]
    lines[4] = bad if isinstance(bad, str) else json.dumps(bad)
    Path("rows.jsonl").write_text("\n".join(lines))
    code, message = fail(TRAIN, capsys)
    assert code == 1 and not Path("run").exists()
    for word in ("rows.jsonl", *words):
        assert word in message


@pytest.mark.parametrize(
    ("verb", "bad", "words"),
    [
        ("perplexity", "just a string", ("line 1", "expected an object")),
        ("perplexity", {"text": 5}, ("line 1", "column text")),
        ("generation", "just a string", ("line 1", "expected an object")),
        ("generation", {"task": "none"}, ("line 1", "task")),
        ("generation", talk(("system", "a")), ("line 1", "something to answer")),
        ("accuracy", "just a string", ("line 1", "expected an object")),
        ("accuracy", {"question": 5, "answer": "x"}, ("line 1", "question")),
    ],
)
def test_bad_rows_are_found_before_the_model_is_loaded(
    verb: str, bad: Any, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows("bad.jsonl", [bad] * 3)
    code, message = fail(f"evaluate {verb} --model nowhere/at/all --dataset bad.jsonl", capsys)
    assert code == 1
    for word in ("bad.jsonl", *words):
        assert word in message


@pytest.mark.parametrize(
    ("rows", "window", "expected_code", "words"),
    [
        (ROWS, 1, 2, ("--window 1", "2 or more")),
        ([{"text": "some words"}], 1, 2, ("--window 1", "2 or more")),
        ([row(output="")] * 3, 0, 1, ("empty answer", "rows.jsonl")),
    ],
)
def test_perplexity_of_nothing(
    rows: list[Any],
    window: int,
    expected_code: int,
    words: tuple[str, ...],
    desk: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_rows("rows.jsonl", rows)
    code, message = fail(f"evaluate perplexity --model model --dataset rows.jsonl --window {window}", capsys)
    assert code == expected_code and "train" not in message
    for word in words:
        assert word in message


BAD_FILES: dict[str, tuple[str, Callable[[], object], tuple[str, ...]]] = {
    "missing": ("nowhere.jsonl", lambda: None, ("no such file", "nowhere.jsonl")),
    "empty": ("empty.jsonl", lambda: Path("empty.jsonl").touch(), ("holds no rows",)),
    "only empty answers": (
        "blank.jsonl",
        lambda: write_rows("blank.jsonl", [row(output="")] * 9),
        ("empty answer", "give rows with an answer"),
    ),
    "no text": ("binary.jsonl", lambda: Path("binary.jsonl").write_bytes(b"\xff\xfe{}\n"), ("UTF-8",)),
    "one object": ("o.json", lambda: Path("o.json").write_text('{\n "data": []\n}\n'), ("o.json holds one object",)),
    "another kind": ("notes.docx", lambda: Path("notes.docx").write_bytes(b"PK"), (".docx", ".jsonl")),
    "damaged parquet": ("t.parquet", lambda: Path("t.parquet").write_bytes(b"PAR1PAR1"), ("parquet",)),
    "ragged CSV": ("t.csv", lambda: Path("t.csv").write_text("instruction,output\na,b,c\n"), ("t.csv line 2",)),
    "a folder of something else": ("things", lambda: Path("things").mkdir(), ("things",)),
    "one long prompt": (
        "long.jsonl",
        lambda: write_rows("long.jsonl", [row(instruction="word " * 500, output="yes " * 500)] * 9),
        ("--max-length",),
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_data_file(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, make, words = BAD_FILES[case]
    make()
    code, message = fail(TRAIN.replace("rows.jsonl", name), capsys)
    assert code == 1 and not list(Path().glob("run/final"))
    for word in words:
        assert word in message


# --- the command and the config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--learning-rate -1e-4", ("learning-rate", "greater than 0")),
        ("--learning-rate nan", ("learning-rate",)),
        ("--learning-rate fast", ("learning-rate",)),
        ("--seed 99999999999999999999", ("seed", "less than")),
        ("--output-dir=", ("--output-dir should have a value",)),
        ("--seed -1", ("seed", "0")),
        ("--batch-size 0", ("batch-size",)),
        ("--max-length 2", ("max-length",)),
        ("--epochs -1", ("epochs",)),
        ("--warmup -5", ("warmup",)),
        ("--lr-schedule wavy", ("lr-schedule", "cosine")),
        ("--learning-rat 1e-4", ("--learning-rate",)),
        ("--eval-fraction 1.5", ("eval-fraction",)),
        ("--split train[", ("test[:100]",)),
        ("--dtype bfloat16", ("dtype", "frozen")),
        ("--lora --lora-targets q_proj", ("q_proj", "c_attn")),
        ("--load-in-4bit", ("4bit",)),
        ("--preset gigantic", ("gigantic", "quick")),
    ],
)
def test_wrong_usage(flags: str, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = fail(f"{TRAIN.removesuffix('--report-to')} {flags}", capsys)
    assert code == 2 and not Path("run").exists()
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {learning_rat: 1.0e-4}", ("learning_rat", "learning_rate")),
        ("training: {batch_size: -4}", ("batch_size",)),
        ("trainin: {batch_size: 4}", ("trainin", "training")),
        ("model: [1, 2]", ("model",)),
        ("model: {name: model", ("bad.yaml",)),
        ("", ("bad.yaml",)),
    ],
)
def test_bad_yaml(text: str, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sft_bad.yaml").write_text(text)
    code, message = fail("train-config sft_bad.yaml", capsys)
    assert code == 2
    for word in words:
        assert word in message


# --- the model -------------------------------------------------------------------------------------------------------


def poison(name: str) -> None:
    path = Path("model/model.safetensors")
    tensors = load_file(path)
    tensors[name][0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


BAD_MODELS: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "a data folder": (lambda: shutil.rmtree("model") or Path("model").mkdir(), ("config.json",)),
    "NaN weights": (lambda: poison("transformer.wpe.weight"), ("NaN", "transformer.wpe.weight")),
    "half a download": (lambda: os.truncate("model/model.safetensors", 5000), ("damaged", "again")),
    "no tokenizer": (lambda: Path("model/tokenizer.json").unlink(), ("tokenizer",)),
    "rows longer than its context": (
        lambda: write_rows("rows.jsonl", [row(output="word " * 400)] * 9),
        ("128", "--max-length"),
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_model(case: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = BAD_MODELS[case]
    damage()
    code, message = fail(TRAIN.replace("--max-length 64", "--max-length 500"), capsys)
    assert code == 1 and not Path("run").exists()
    for word in words:
        assert word in message


@pytest.mark.parametrize("command", ["chat model", "evaluate perplexity --model model --dataset rows.jsonl"])
def test_other_verbs_refuse_a_bad_model_alike(command: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poison("transformer.wpe.weight")
    code, message = fail(command, capsys)
    assert code == 1 and "transformer.wpe.weight" in message


# --- the run: what is on disk survives -------------------------------------------------------------------------------


def tree(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def train(extra: str = "") -> None:
    assert main.main(f"{TRAIN.removesuffix('--report-to')} --save-steps 1 {extra} --report-to".split()) == 0


def test_a_folder_that_holds_a_run_is_not_overwritten(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    before = tree("run")
    code, message = fail(TRAIN, capsys)
    assert code == 1 and "--resume" in message and "--overwrite" in message and tree("run") == before


def test_output_dir_that_is_a_file(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").write_text("mine")
    code, message = fail(TRAIN, capsys)
    assert code == 1 and "run" in message and Path("run").read_text() == "mine"


def test_resume_where_nothing_is(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = fail(TRAIN.replace("--report-to", "--resume --report-to"), capsys)
    assert code == 1 and "nothing to resume" in message


def test_resume_where_every_checkpoint_is_unreadable(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    for state in Path("run").glob("checkpoint-*/trainer_state.json"):
        state.write_text("{")
    before = tree("run")
    code, message = fail(TRAIN.replace("--report-to", "--resume --report-to"), capsys)
    assert code == 1 and "run" in message and tree("run") == before


def test_resume_from_damaged_weights_of_the_right_size(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    shutil.rmtree("run/checkpoint-1")
    Path("run/run.json").unlink()  # which would say that the run has finished
    weights = Path("run/checkpoint-2/model.safetensors")
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    before = tree("run")
    code, message = fail(TRAIN.replace("--report-to", "--resume --report-to"), capsys)
    assert code == 1 and "no complete checkpoint" in message and tree("run") == before


def test_resume_with_other_settings(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    before = tree("run")
    code, message = fail(TRAIN.replace("--batch-size 4", "--batch-size 3 --resume"), capsys)
    assert code == 1 and "rows per step was 4 and is 3 now" in message and tree("run") == before


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_disk_full_while_saving_a_checkpoint(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second checkpoint finds no room: the first one is whole, and the run goes on from there."""
    from transformers import GPT2LMHeadModel

    original = GPT2LMHeadModel.save_pretrained

    def first_one_only(self: Any, folder: str, **settings: Any) -> None:
        no_space() if "checkpoint-2" in folder else original(self, folder, **settings)

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", first_one_only)
    code, message = fail(TRAIN.replace("--report-to", "--save-steps 1 --report-to"), capsys)
    assert code == 1 and "No space left on device" in message and "checkpoint-2" in message
    assert sorted(path.name for path in Path("run").glob("*check*")) == ["checkpoint-1"]
    monkeypatch.undo()
    monkeypatch.chdir(desk)
    assert main.main(TRAIN.replace("--report-to", "--resume --report-to").split()) == 0
    assert Path("run/final/model.safetensors").exists()


@pytest.mark.parametrize("limit", [2_000_000, 5_000_000])  # bytes: the tokenizer's file is 3.5 MB, the weights 6.5
def test_files_larger_than_allowed(limit: int, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not simulated: the system refuses to write past the limit, as on a full disk, inside the libraries' own code."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code, message = fail(TRAIN, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and "could not save" in message and "too large" in message
    assert not list(Path("run").glob("checkpoint-*")) and not Path("run/final").exists()


def test_disk_full_while_writing_the_log(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
        if self.name == "metrics.jsonl" and mode != "r":
            no_space()
        return real_open(self, mode, *arguments, **settings)

    monkeypatch.setattr(Path, "open", full)
    code, message = fail(TRAIN, capsys)
    assert code == 1 and "No space left" in message and "metrics.jsonl" in message


def test_too_little_room_is_said_before_the_first_step(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    code, message = fail(TRAIN, capsys)
    assert code == 1 and "0.0 GB free" in message and not list(Path("run").glob("checkpoint-*"))


def test_a_save_that_was_killed_half_way_is_no_checkpoint(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a kill leaves under the working name is passed over, and cleared away by the next save."""
    train()
    Path("run/run.json").unlink()  # which a killed run would not have left saying that it has finished
    shutil.move("run/checkpoint-2", "run/.checkpoint-2.part")
    (Path("run/.checkpoint-2.part") / "model.safetensors").write_bytes(b"half")
    assert main.main(f"{TRAIN.replace('--report-to', '--save-steps 1 --resume --report-to')}".split()) == 0
    assert not Path("run/.checkpoint-2.part").exists() and Path("run/checkpoint-2/model.safetensors").exists()


def test_a_loss_that_is_not_a_number_stops_the_run_and_saves_nothing(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of 1e30 throws the weights out of float32's range in the first step."""
    command = TRAIN.replace("--max-steps 2", "--max-steps 9 --learning-rate 1e30 --max-grad-norm 0 --warmup 0")
    code, message = fail(command, capsys)
    assert code == 1 and "in step 2" in message and "smaller --learning-rate" in message
    assert not list(Path("run").glob("checkpoint-*")) and not Path("run/final").exists()


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_stop_between_the_two_renames_of_a_save_brings_the_old_folder_back(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final, real = tmp_path / "final", os.replace
    final.mkdir()
    (final / "model").write_text("old")

    def replace(source: Path, target: Path) -> None:
        if source.name == ".final.part":
            raise failure
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((UserError, KeyboardInterrupt)), written_aside(final) as aside:
        (aside / "model").write_text("new")
    assert (final / "model").read_text() == "old" and not (tmp_path / ".final.old").exists()
    monkeypatch.undo()
    (tmp_path / ".final.old").mkdir()  # a run was killed before it had cleared this away
    (tmp_path / ".final.old/model").write_text("older")
    with written_aside(final) as aside:
        (aside / "model").write_text("new")
    assert (final / "model").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["final"]
