"""`push`: what arrives is what lies on disk, nothing private goes along, and nobody publishes by accident."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from auto_bot_tuner.hub.upload import Parcel, is_sent, pack
from auto_bot_tuner.utils.errors import UserError
from commands.push import is_stale
from tests.hub_commands import NOWHERE, ROOT, run_commands
from tests.hub_standin import Hub, Repository
from tests.models import save_tiny_model

WRITER = "HF_TOKEN=hf_write "


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("trained") / "final", "gpt2")


@pytest.fixture
def desk(tmp_path: Path, trained: Path) -> Path:
    """A working directory with a run: run/final is its model, with a card that names a path of this machine."""
    shutil.copytree(trained, tmp_path / "run/final")
    (tmp_path / "run/final/README.md").write_text(
        "---\nbase_model: tiny\nbase_model_relation: finetune\ntags: [sft]\n---\n"
        f"# Mine\nData: {tmp_path}/rows.jsonl, /home/me/secret/rows.csv\n"
        "See https://example.org/home/page and 1/2 of /usr/bin.\n"
    )
    return tmp_path


def adapter_on(base: str, folder: Path) -> Path:
    """An adapter's folder as peft writes it."""
    from peft import LoraConfig, get_peft_model

    from tests.models import tiny_model

    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model("gpt2"), lora)
    model.save_pretrained(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    (folder / "README.md").unlink()
    return folder


def test_what_arrives_is_what_lies_on_disk(hub: Hub, home: Path, desk: Path) -> None:
    for name in ("optimizer.pt", "notes.py", "trainer_state.json", ".env"):
        (desk / "run/final" / name).write_text("none of the hub's business")
    pushed, fetched = run_commands(
        f"{WRITER} push run me/arrives --yes --message Hello",
        "download model me/arrives --json got.json",
        endpoint=hub.url,
        home=home,
        cwd=desk,
    )
    assert pushed.code == 0 and fetched.code == 0, (pushed, fetched)
    there = hub.repositories["models", "me/arrives"]
    sent = {name: path.read_bytes() for name, path in there.files().items()}
    here = {path.name: path.read_bytes() for path in (desk / "run/final").iterdir() if is_sent(path.name)}
    assert sent.keys() == here.keys() and "model.safetensors" in sent and not there.is_private
    assert [name for name in here if sent[name] != here[name]] == ["README.md"]  # mended, and said
    assert "Not sent: .env, notes.py, optimizer.pt, trainer_state.json" in pushed.out
    assert hub.messages[-1] == "Hello" and f"{hub.url}/me/arrives" in pushed.out
    got, own = (load_file(folder / "model.safetensors") for folder in (there.folder, desk / "run/final"))
    assert all((got[name] == own[name]).all() for name in own)


def test_no_path_of_this_machine_goes_along(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    config = desk / "run/final/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_name_or_path": "/home/me/base"}))
    parcel = pack(desk / "run")
    card, settings = parcel.files["README.md"], parcel.files["config.json"]
    assert isinstance(card, bytes) and isinstance(settings, bytes)
    assert card.decode().splitlines() == [
        "---",
        "tags: [sft]",  # base_model: tiny would name a stranger's model there
        "---",
        "# Mine",
        "Data: rows.jsonl, rows.csv",
        "See https://example.org/home/page and 1/2 of /usr/bin.",
    ]
    assert json.loads(settings)["_name_or_path"] == "base"
    assert len(parcel.remarks) == 4 and "/home/me/base" in config.read_text()  # what lies here stays as it is


def test_a_missing_card_is_written_and_a_reward_model_goes_too(hub: Hub, home: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=50, num_labels=1))
    model.save_pretrained(str(tmp_path / "reward/final"))
    (done,) = run_commands(f"{WRITER} push reward my-judge --private", endpoint=hub.url, home=home, cwd=tmp_path)
    assert done.code == 0 and "there is none, a short one is sent" in done.out
    assert "for you alone to see" in done.out and "evaluate reward --model me/my-judge" in done.out
    there = hub.repositories["models", "me/my-judge"]
    assert there.is_private and "GPT2ForSequenceClassification" in (there.folder / "README.md").read_text()
    assert not (tmp_path / "reward/final/README.md").exists()


def test_an_adapter_goes_with_the_name_of_its_base_or_not_at_all(tmp_path: Path) -> None:
    assert "adapter_model.safetensors" in pack(adapter_on("gpt2", tmp_path / "on-hub")).files
    for base in ("/home/me/base", "tiny"):
        with pytest.raises(UserError, match=r"which nobody else has: merge it first with python main.py convert"):
            pack(adapter_on(base, tmp_path / base.strip("/").replace("/", "-")))


@pytest.mark.parametrize(("base", "goes"), [("gpt2", True), ("tiny", False), ("/home/me/base", False)])
def test_merged_weights_go_without_an_adapter_that_only_works_here(desk: Path, base: str, goes: bool) -> None:
    adapter_on(base, desk / "run/final/adapter")
    parcel = pack(desk / "run")
    assert "model.safetensors" in parcel.files
    assert any(name.startswith("adapter/") for name in parcel.files) == goes
    assert ("adapter/adapter_model.safetensors" in parcel.left_out) != goes
    assert any(f"stays here: it is for {base}," in remark for remark in parcel.remarks) != goes


@pytest.mark.parametrize("harm", ["cut", "no weights", "pickled", "a shard is missing", "nothing"])
def test_what_is_not_whole_is_not_sent(desk: Path, harm: str) -> None:
    folder = desk / "run/final"
    weights = folder / "model.safetensors"
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-5])
    elif harm == "nothing":
        shutil.rmtree(folder)
    else:
        weights.unlink()
    if harm == "pickled":
        (folder / "pytorch_model.bin").write_bytes(b"")
    if harm == "a shard is missing":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "model-00001-of-00002.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    expected = {
        "cut": "is damaged",
        "no weights": "holds no weights in safetensors",
        "pickled": "only pickled weights",
        "a shard is missing": "lacks some of its weight files",
        "nothing": "holds no model",
    }[harm]
    with pytest.raises(UserError, match=expected) as error:
        pack(desk / "run")
    assert "\n" not in str(error.value)


def test_refusals_have_cause_and_cure_in_one_line(hub: Hub, home: Path, desk: Path) -> None:
    hub.add(Repository("models", "me/public", hub.repositories["models", "openai-community/gpt2"].folder))
    nobody, name, near, reader, wrong, stranger, unasked, public = run_commands(
        "push run me/x --yes",
        "push run 'me/x y' --yes",
        "push rnu me/x --yes",
        "HF_TOKEN=hf_read push run me/x --yes",
        "HF_TOKEN=hf_expired push run me/x --yes",
        "HF_TOKEN=hf_write push run you/x --yes",
        "push run me/x",
        "push run me/public --private",
        endpoint=hub.url,
        home=home,
        cwd=desk,
    )
    nobody.failed_with("nobody is logged in", "hf auth login")
    name.failed_with("'me/x y' is no name for the hub", "owner/name", code=2)
    near.failed_with("no model folder rnu here", "did you mean run?")
    reader.failed_with("may only read", "hf auth login")
    wrong.failed_with("does not know the token", "hf auth login")
    stranger.failed_with("you may not write to you/x")
    unasked.failed_with("everybody will be able to read me/x", "--yes", "--private", code=2)
    public.failed_with("exists already and is public")
    offline, dry = run_commands(
        f"{WRITER} push run me/x --yes", "push run me/x --dry-run", endpoint=NOWHERE, home=home, cwd=desk
    )
    offline.failed_with("cannot reach the hub", NOWHERE)
    assert dry.code == 0 and "nothing was sent" in dry.out and "model.safetensors" in dry.out
    assert ("models", "me/x") not in hub.repositories and ("models", "you/x") not in hub.repositories


def test_a_second_push_leaves_one_model_there(hub: Hub, home: Path, desk: Path) -> None:
    adapter_on("gpt2", desk / "adapter")
    first, second = run_commands(
        f"{WRITER} push run me/twice --yes", "push adapter me/twice --yes", endpoint=hub.url, home=home, cwd=desk
    )
    assert first.code == second.code == 0, (first, second)
    assert "model.safetensors of an earlier push is deleted there" in second.out
    weights = [name for name in hub.repositories["models", "me/twice"].files() if name.endswith(".safetensors")]
    assert weights == ["adapter_model.safetensors"]


@pytest.mark.parametrize(("answer", "is_sent_then"), [("n\n", False), ("\n", False), ("\x04", False), ("y\n", True)])
def test_at_a_terminal_a_public_push_is_asked_for(
    hub: Hub, home: Path, desk: Path, answer: str, is_sent_then: bool
) -> None:
    name = f"asked-{ord(answer[0])}"
    controller, terminal = pty.openpty()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_write"}
    words = [sys.executable, str(ROOT / "main.py"), "push", "run", name]
    process = subprocess.Popen(
        words,
        cwd=desk,
        env={**environment, "HF_HUB_DISABLE_XET": "1"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    screen = ""
    try:
        while "[y/N] " not in screen:
            screen += os.read(controller, 1000).decode()
        os.write(controller, answer.encode())
        while True:
            screen += os.read(controller, 1000).decode(errors="replace")
    except OSError:  # the terminal's other end is closed: the command is done
        pass
    assert process.wait(timeout=60) == 0, screen
    os.close(controller)
    assert "Everybody will be able to read" in screen
    assert (("models", f"me/{name}") in hub.repositories) == is_sent_then, screen
    assert ("Nothing was sent." in screen) != is_sent_then


def test_only_what_a_model_is_loaded_by_is_stale() -> None:
    parcel = Parcel(Path(), {"model.safetensors": b""}, [])
    there = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter/adapter_model.safetensors"]
    assert all(is_stale(name, parcel) for name in there)
    kept = ["model.safetensors", "v2/model.safetensors", "embeddings.safetensors", "README.md"]
    assert not any(is_stale(name, parcel) for name in kept)
