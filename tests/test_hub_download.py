"""`download`: what is needed comes, what it is is said, and every refusal has its cure; against the stand-in hub."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from auto_bot_tuner.data.dataset_facts import uses
from auto_bot_tuner.hub import download as hub_download
from auto_bot_tuner.hub.cache import Cached
from auto_bot_tuner.hub.model_facts import read_facts, read_header
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.model_source import download, find_model
from commands import parse
from commands.download import ModelArguments, fetch_model, is_to_fetch
from tests.hub_commands import NOWHERE, run_commands
from tests.hub_standin import Hub, Repository, make_hub, serve


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    hub = make_hub(folder)
    sft = folder / "adapter"
    sft.mkdir()
    (sft / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": "gpt2", "task_type": "CAUSAL_LM"})
    )
    shutil.copy(folder / "gpt2" / "model.safetensors", sft / "adapter_model.safetensors")
    hub.add(Repository("models", "me/gpt2-adapter", sft))
    with serve(hub) as running:
        yield running


def test_a_model_comes_once_without_what_is_not_needed(hub: Hub, home: Path, tmp_path: Path) -> None:
    first, again, adapter = run_commands(
        "download model gpt2 --json first.json",
        "download model gpt2 --json again.json",
        "download model me/gpt2-adapter",
        endpoint=hub.url,
        home=home,
        cwd=tmp_path,
    )
    assert first.code == again.code == adapter.code == 0
    record = json.loads((tmp_path / "first.json").read_text())
    # 50,257 x 32 embeddings, 1,024 x 32 positions, two layers; the causal masks of the file are no parameters.
    assert record["parameters"] == 50257 * 32 + 1024 * 32 + 2 * 12704 + 64 and record["downloaded"]
    names = {path.name for path in Path(record["path"]).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"pytorch_model.bin", "tf_model.h5", "64.tflite", "onnx"}
    assert "GPT2LMHeadModel, 2 layers, context 1,024" in first.out
    assert "python main.py train-sft --model gpt2" in first.out and record["path"] in first.out
    assert "left there    6" in first.out
    assert "already here" in again.out and not json.loads((tmp_path / "again.json").read_text())["downloaded"]
    assert "LoRA adapter, rank 4" in adapter.out and "Its base model, gpt2:" in adapter.out


def test_a_data_set_is_described_by_its_rows(hub: Hub, home: Path, tmp_path: Path) -> None:
    alpaca, hh, again, listed = run_commands(
        "download dataset yahma/alpaca-cleaned --json alpaca.json",
        "download dataset Anthropic/hh-rlhf",
        "download dataset yahma/alpaca-cleaned",
        "download list --json list.json",
        endpoint=hub.url,
        home=home,
        cwd=tmp_path,
    )
    assert (alpaca.code, hh.code, again.code, listed.code) == (0, 0, 0, 0), (alpaca, hh)
    assert (
        "train 96" in alpaca.out and "instruction, input, output" in alpaca.out and "alpaca (train-sft)" in alpaca.out
    )
    assert "train 80, test 16" in hh.out and "train-dpo --model gpt2 --dataset Anthropic/hh-rlhf" in hh.out
    assert again.out.startswith("yahma/alpaca-cleaned is already here") and "train 96" in again.out
    record = json.loads((tmp_path / "alpaca.json").read_text())
    assert record["subsets"][0]["splits"] == {"train": 96} and record["subsets"][0]["uses"][0]["verb"] == "train-sft"
    entries = {entry["name"]: entry for entry in json.loads((tmp_path / "list.json").read_text())["entries"]}
    assert entries["tiny"]["from"] == "bundled" and entries["yahma/alpaca-cleaned"]["from"] == "hub"
    for name in ("tiny-puzzles", "Anthropic/hh-rlhf"):
        assert name in listed.out
    assert max(len(line) for line in listed.out.splitlines() if "│" in line) <= 80


def test_subsets_are_chosen_by_name(hub: Hub, home: Path, tmp_path: Path) -> None:
    several, main, unknown, again, gated, pickled = run_commands(
        "download dataset school/maths",
        "download dataset school/maths --subset main",
        "download dataset school/maths --subset algebra",
        "download dataset school/maths --subset main --json main.json",
        "download dataset strict/gated-rows",
        "download dataset old/pickled-rows",
        endpoint=hub.url,
        home=home,
        cwd=tmp_path,
    )
    several.failed_with("has several subsets (main, socratic); choose one with --subset")
    unknown.failed_with("has no subset 'algebra', only main, socratic; choose one with --subset")
    assert "train-grpo --model gpt2 --dataset school/maths --subset main --reward numeric" in main.out
    assert "already here" in again.out
    assert json.loads((tmp_path / "main.json").read_text())["subsets"][0]["splits"] == {"train": 8}
    gated.failed_with("'strict/gated-rows' is gated", f"{hub.url}/datasets/strict/gated-rows", "hf auth login")
    pickled.failed_with("'old/pickled-rows' cannot be loaded", "data files")


def test_what_is_here_is_said_without_a_network(hub: Hub, home: Path, tmp_path: Path) -> None:
    names = ("model gpt2", "dataset yahma/alpaca-cleaned")
    run_commands(*(f"download {name}" for name in names), endpoint=hub.url, home=home, cwd=tmp_path)
    model, data, near, other = run_commands(
        *(f"download {name}" for name in names),
        "download model gtp2",
        "download dataset some/thing",
        endpoint=NOWHERE,
        home=home,
        cwd=tmp_path,
    )
    assert model.code == data.code == 0 and "already here" in model.out and "already here" in data.out
    near.failed_with("cannot reach the model hub", NOWHERE, "did you mean gpt2? Else connect to the network")
    other.failed_with("cannot reach the hub", NOWHERE, "connect to the network", "python main.py download list")
    for line in (near.err, other.err):  # nothing else in its place is what a download wants
        assert "local" not in line and "bundled" not in line and "--dataset" not in line


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("download modle gpt2", "download has no 'modle': did you mean model? (flags: python main.py download --help)"),
        ("evaluate genration --model tiny", "evaluate has no 'genration': did you mean generation?"),
        ("convert gguf", "convert has no 'gguf': there are merge-lora, export (flags: python main.py convert --help)"),
    ],
)
def test_a_mistyped_subcommand_is_named(command: str, words: str) -> None:
    verb, *argv = command.split()
    with pytest.raises(UsageError, match=re.escape(words)):
        parse(verb, argv)


def test_refusals_have_cause_and_cure_in_one_line(hub: Hub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    near, data, gated, private, pickled, bundled, path, here, offline, allowed = run_commands(
        "download model openai-comunity/gpt2",
        "download dataset yahma/alpaca-claened",
        "download model strict/gated-model",
        "download model me/secret-model",
        "download model old/pickled-model",
        "download model tiny",
        "download model ./zzz",
        "download model here",
        "download model no/such-thing --json nowhere/there/x.json",
        "HF_TOKEN=hf_write download model me/secret-model",
        endpoint=hub.url,
        home=home / "refused",
        cwd=tmp_path,
    )
    near.failed_with("no model openai-comunity/gpt2", "did you mean openai-community/gpt2?")
    data.failed_with("no data set 'yahma/alpaca-claened'", "did you mean yahma/alpaca-cleaned?")
    gated.failed_with("is gated: accept its terms", f"{hub.url}/strict/gated-model", "hf auth login")
    private.failed_with("no model me/secret-model", "hf auth login", "private")
    pickled.failed_with("only pickled weights (pytorch_model.bin)", "choose a model with safetensors")
    bundled.failed_with("tiny is bundled", "--model tiny", code=2)
    path.failed_with("no model folder ./zzz here", "mend the path")
    here.failed_with("lies here already", "--model here", code=2)
    offline.failed_with("no model no/such-thing")
    assert allowed.code == 0, allowed


def test_code_of_a_repository_is_neither_fetched_nor_run_unasked(
    hub: Hub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    unasked, asked = run_commands(
        "download model strange/own-code --json unasked.json",
        "download model strange/own-code --trust-remote-code --update",
        endpoint=hub.url,
        home=home,
        cwd=tmp_path,
    )
    words = " ".join(unasked.out.split())  # as they were before they were wrapped
    assert "modeling_strange.py (not fetched, never run)" in words
    assert "with --trust-remote-code they run on this machine with your rights" in words
    folder = Path(json.loads((tmp_path / "unasked.json").read_text())["path"])
    assert "modeling_strange.py (fetched)" in asked.out and (folder / "modeling_strange.py").is_file()
    with pytest.raises(UserError, match=r"brings Python code of its own.*--trust-remote-code"):
        load_model_and_tokenizer(folder)
    assert not (tmp_path / "trace").exists()


def test_no_room_is_known_before_the_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub_download, "hub_folder", lambda: tmp_path / "hub")
    hub_download.check_room("some/model", 1)
    with pytest.raises(UserError, match=r"takes 1000 TB, and .* free: free some space .* HF_HOME") as error:
        hub_download.check_room("some/model", 10**15)
    assert "\n" not in str(error.value)


def test_a_full_disk_in_the_midst_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(UserError, match=r"No space left on device.*HF_HOME.*what has arrived is kept"):
        download("some/model", False)


def test_pickles_in_a_local_folder_are_not_opened(tmp_path: Path) -> None:
    """A pickle that would leave a trace when opened, under every name by which weights and tokenizers go."""
    trace = tmp_path / "trace"
    bomb = f"cos\nsystem\n(S'touch {trace}'\ntR.".encode()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    for name in ("pytorch_model.bin", "tokenizer.pkl", "vocab.pkl", "training_args.bin"):
        (model / name).write_bytes(bomb)

    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    with pytest.raises(UserError, match="only pickled weights"):
        load_model_and_tokenizer(model)
    from tests.models import save_tiny_model

    whole = save_tiny_model(tmp_path / "whole", "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (whole / name).unlink(missing_ok=True)
    for name in ("tokenizer.pkl", "vocab.pkl"):
        (whole / name).write_bytes(bomb)
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_model_and_tokenizer(whole)
    assert not trace.exists()


def test_facts_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    from tests.models import save_tiny_model

    folder = save_tiny_model(tmp_path / "model", "llama")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    facts = read_facts(folder)
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert (facts.architecture, facts.dtype, facts.layers, facts.context) == ("LlamaForCausalLM", "F32", 2, 128)
    assert find_model(str(folder)).path == folder
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="by its header"):
        read_header(weights)


@pytest.mark.parametrize(
    ("columns", "verbs"),
    [
        ("instruction input output", ["train-sft"]),
        ("messages", ["train-sft"]),
        ("prompt chosen rejected", ["train-dpo", "train-reward", "train-ppo"]),
        ("question answer", ["train-grpo"]),
        ("text", ["train-sft"]),
        ("sentence idx", []),
    ],
)
def test_columns_tell_what_a_data_set_is_good_for(columns: str, verbs: list[str]) -> None:
    assert [use.verb for use in uses(columns.split())] == verbs


def test_an_adapter_that_names_itself_as_its_base_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/own", "r": 4}))
    known = [Cached("me/own", "model", 1, 0.0, tmp_path)]
    monkeypatch.setattr("auto_bot_tuner.hub.cache.cached", lambda kind: known)
    with pytest.raises(UserError, match=r"me/own is an adapter itself, on me/own"):
        fetch_model(ModelArguments(id="me/own"))
    assert not is_to_fetch("tiny") and not is_to_fetch(str(tmp_path)) and is_to_fetch("me/own")
