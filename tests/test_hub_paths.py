"""A mistyped path is answered here and at once; a hub id still goes to the hub."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from auto_bot_tuner.data.sources import load_splits
from auto_bot_tuner.export.folder import check_output
from auto_bot_tuner.hub.errors import like
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.local_paths import is_path, nearest_path
from auto_bot_tuner.utils.model_source import find_model, refuse_without_weights
from auto_bot_tuner.utils.shipped_configs import CONFIGS, made_by
from auto_bot_tuner.utils.strict_yaml import read_yaml


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a trained model and a file of rows; the hub's cache is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for run in ("sft", "old-reward"):
        (tmp_path / "checkpoints" / run / "final").mkdir(parents=True)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["./x", "../x", "~/x", "/x/y", "a/b/c", "checkpoints/x", "rows.json", "own/rows.jsonl", "x/", "a\\b", "m.gguf"],
)
def test_a_path_is_told_by_its_shape(desk: Path, name: str) -> None:
    assert is_path(name)


@pytest.mark.parametrize(
    "name", ["gpt2", "yahma/alpaca-cleaned", "Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B", "sft"]
)
def test_a_hub_id_is_none(desk: Path, name: str) -> None:
    assert not is_path(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("checkpoints/sfft/final", "checkpoints/sft/final"),
        ("checkpoints/sft/fnial", "checkpoints/sft/final"),
        ("chekpoints/old_reward", "checkpoints/old-reward"),
        ("checkpoints/sfft/no-such-thing", "checkpoints/sft"),
        ("./row.jsonl", "rows.jsonl"),
        ("checkpoints/zzz", ""),
        ("/zzzzz/yyyyy", ""),
    ],
)
def test_the_nearest_path(desk: Path, name: str, near: str) -> None:
    assert nearest_path(name) == near


def refused(find: object, name: str) -> str:
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        find(name)  # type: ignore[operator]
    assert time.monotonic() - began < 1
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_mistyped_path_does_not_wait_for_the_hub(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked for a path")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.setattr("auto_bot_tuner.data.sources.load_from_hub", asked)
    assert "did you mean checkpoints/sft/final?" in refused(find_model, "checkpoints/sfft/final")
    message = refused(find_model, "checkpoints/x")
    assert "no model folder checkpoints/x here; checkpoints holds old-reward, sft: mend the path" in message
    assert "from the hub: python main.py download model checkpoints/x" in message
    assert "did you mean rows.jsonl?" in refused(load_splits, "rwos.jsonl")
    assert "holds checkpoints, rows.jsonl: mend the path" in refused(load_splits, "./zzzz.csv")
    assert "download dataset checkpoints/x" in refused(load_splits, "checkpoints/x")


def test_a_model_that_a_shipped_config_makes(desk: Path) -> None:
    message = refused(find_model, "checkpoints/sft/tiny/final")
    assert "no model folder checkpoints/sft/tiny/final here; made by: python main.py train-config" in message
    assert "configs/sft_tiny_standard.yaml (or, for a look, " in message
    assert "sft_tiny_quick.yaml, which makes checkpoints/sft/tiny-quick/final)" in message
    quick = refused(find_model, "./checkpoints/sft/tiny-quick/final")
    assert quick.endswith("configs/sft_tiny_quick.yaml")
    assert "made by" not in refused(find_model, "checkpoints/sft/mine/final")
    assert "made by" not in refused(load_splits, "checkpoints/sft/tiny/final")


def test_every_shipped_config_starts_from_what_can_be_made() -> None:
    starts = [read_yaml(path)["model"]["name"] for path in CONFIGS.glob("*.yaml")]
    folders = {name for name in starts if name.endswith("/final")}
    assert len(folders) == 2 and all(made_by(name) for name in folders)


def test_standard_comes_first_and_other_files_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sft_a_mine", "sft_a_standard"):
        Path(f"{name}.yaml").write_text("training: {output_dir: out/a}\n")
    Path("broken.yaml").write_text("training: [\n")
    Path("list.yaml").write_text("training: [1]\n")
    assert made_by("out/a/final", tmp_path) == "python main.py train-config sft_a_standard.yaml"


def test_final_of_an_interrupted_run_is_told_as_the_run_itself(desk: Path) -> None:
    run = desk / "checkpoints/stopped"
    for step in (5, 10):
        (run / f"checkpoint-{step}").mkdir(parents=True)
    (run / "config.yaml").touch()
    for name in ("checkpoints/stopped", "checkpoints/stopped/final"):
        message = refused(find_model, name)
        assert "did not finish; name a checkpoint in it, such as checkpoints/stopped/checkpoint-10" in message
        assert message.endswith("go on with: python main.py train-config checkpoints/stopped/config.yaml --resume")


@pytest.mark.parametrize("user", ["~no-such-person", "~"])
def test_a_home_that_is_none(desk: Path, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    if user == "~":
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for find in (find_model, lambda name: check_output(Path(name), False, desk)):
        message = refused(find, f"{user}/x")
        assert f"so {user} is no folder: write the whole path" in message
        assert ("no-such-person" in message) == (user != "~")


def test_what_was_downloaded_under_the_name_of_a_folder_here_is_meant(desk: Path, monkeypatch) -> None:
    (desk / "hub" / "models--checkpoints--x").mkdir(parents=True)
    monkeypatch.setattr("auto_bot_tuner.utils.model_source.download", lambda name, trust: Path("/downloaded"))
    assert find_model("checkpoints/x").path == Path("/downloaded")


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("gtp2", ["gpt2", "bert", "openai-community/gpt2-xl"], "gpt2"),
        ("openai-comunity/gpt2", ["openai-community/gpt2", "me/other"], "openai-community/gpt2"),
        ("me/alpaca-claened", ["yahma/alpaca-cleaned", "x/wiki"], "yahma/alpaca-cleaned"),
        ("gpt2", ["bert", "t5"], ""),
        ("gpt2", [], ""),
        ("x/model", ["evil/\x1b[31mmodel"], "evil/␛[31mmodel"),  # names come from strangers
    ],
)
def test_names_like_a_misspelt_one(name: str, names: list[str], near: str) -> None:
    assert like(name, names) == near


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        (["config.json", "pytorch_model.bin"], "only pickled weights (pytorch_model.bin)"),
        (["adapter_config.json", "adapter_model.bin"], "only pickled weights (adapter_model.bin)"),
        (["model-q4.gguf", "README.md"], "only GGUF weights (model-q4.gguf)"),
        (["README.md", "deep/model.safetensors"], "no weights in safetensors (README.md)"),
        ([], "no file at all"),
    ],
)
def test_weights_that_nobody_here_reads_are_named(files: list[str], cause: str) -> None:
    with pytest.raises(UserError) as error:
        refuse_without_weights("some/model", files)
    assert cause in str(error.value) and "\n" not in str(error.value)
    refuse_without_weights("some/model", [*files, "model.safetensors"])  # beside them the others do no harm
