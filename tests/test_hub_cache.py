"""What lies in the caches is found without a network; damage hides no neighbour."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from auto_bot_tuner.hub.cache import cached, has_all_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    return tmp_path


def repository(home: Path, kind: str, name: str, **files: int) -> Path:
    """A repository as huggingface_hub lays it down: blobs, and a snapshot of links to them."""
    folder = home / "hub" / f"{kind}s--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for part in (folder / "blobs", folder / "refs", snapshot):
        part.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for number, (file, size) in enumerate(files.items()):
        (folder / "blobs" / str(number)).write_bytes(b"x" * size)
        (snapshot / file.replace("_dot_", ".")).symlink_to(f"../../blobs/{number}")
    return snapshot


def made_rows(home: Path, name: str, size: int) -> Path:
    folder = home / "datasets" / name
    version = folder / "default" / "0.0.0" / COMMIT
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{}")
    (version / "x-train.arrow").write_bytes(b"x" * (size - 2))
    return folder


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_no_cache_is_an_empty_one(home: Path, kind: str) -> None:
    assert cached(kind) == []
    (home / "hub").write_text("a file where the folder should be")
    (home / "datasets").write_text("likewise")
    assert cached(kind) == []


def test_models_are_those_whose_weights_are_all_there(home: Path) -> None:
    whole = repository(home, "model", "some/whole", config_dot_json=10, model_dot_safetensors=500)
    adapter = repository(home, "model", "adapter", adapter_config_dot_json=10, adapter_model_dot_safetensors=5)
    repository(home, "model", "some/cut", config_dot_json=10)
    repository(home, "model", "some/pickled", config_dot_json=10, pytorch_model_dot_bin=500)
    repository(home, "dataset", "some/whole", rows_dot_json=7)
    found = cached("model")
    assert [(m.name, m.size_bytes, m.path) for m in found] == [("adapter", 15, adapter), ("some/whole", 510, whole)]
    assert all(m.kind == "model" and m.last_used > 1e9 for m in found)


def test_a_model_in_several_files_needs_each_of_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1-of-2.safetensors").touch()
    assert not has_all_weights(tmp_path)
    (tmp_path / "model-2-of-2.safetensors").touch()
    assert has_all_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{half")
    assert not has_all_weights(tmp_path)


def test_damage_hides_no_neighbour(home: Path) -> None:
    repository(home, "model", "some/whole", config_dot_json=10, model_dot_safetensors=500)
    broken = repository(home, "model", "some/broken", config_dot_json=10, model_dot_safetensors=500)
    (broken.parents[1] / "blobs" / "1").unlink()
    (home / "hub" / "models--no-snapshots").mkdir()
    assert [model.name for model in cached("model")] == ["some/whole"]


def test_a_data_set_of_both_caches_is_one(home: Path) -> None:
    repository(home, "dataset", "Some/MyData", rows_dot_json=100, README_dot_md=5)
    rows = made_rows(home, "Some___my_data", 30)  # as `datasets` spells it
    files = repository(home, "dataset", "raw/only", rows_dot_json=9)
    repository(home, "dataset", "card/only", README_dot_md=5)
    made = made_rows(home, "rows___only", 40)
    made_rows(home, "json", 50)  # a local file
    (home / "datasets" / "half___done").mkdir()
    found = {entry.name: (entry.size_bytes, entry.path) for entry in cached("dataset")}
    assert found == {"Some/MyData": (135, rows), "raw/only": (9, files), "rows/only": (40, made)}
