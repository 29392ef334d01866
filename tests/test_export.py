"""Models out: what lies in an exported folder is the model that was trained, for tools that never heard of this one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import commands
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from auto_bot_tuner.utils.saving import save_for_users, save_weights
from commands.convert import name_of
from tests.reward_runs import save_byte_model

ROWS = [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(24)]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4."},
    {"role": "user", "content": "And 3 + 3?"},
]
# A machine without this checkout: isolated from the environment and the folder, and the package cannot be imported.
ELSEWHERE = """
import json, sys
sys.modules["auto_bot_tuner"] = sys.modules["src"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = json.loads(sys.argv[2])
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
if sys.argv[3]:
    from peft import PeftModel
    base = AutoModelForCausalLM.from_pretrained(sys.argv[3], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, sys.argv[1])
with torch.no_grad():
    logits = model.eval()(torch.tensor([ids])).logits[0, -1]
print(json.dumps({"ids": ids, "logits": logits.tolist(), "stops": model.generation_config.eos_token_id}))
"""


def convert(*argv: str | Path) -> None:
    commands.run("convert", [str(word) for word in argv])


def elsewhere(folder: Path, base: Path | str = "") -> dict:
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(folder.parent)}
    words = [sys.executable, "-I", "-c", ELSEWHERE, str(folder), json.dumps(CHAT), str(base)]
    done = subprocess.run(words, env=environment, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@torch.no_grad()
def last_logits(model, ids: list[int]) -> torch.Tensor:
    return model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].float().cpu()


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory) -> Path:
    """A real LoRA run of a few steps on the bundled model: its whole folder."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    flags = ["--model", "tiny", "--dataset", str(folder / "rows.jsonl"), "--output-dir", str(folder / "run")]
    more = ["--max-steps", "3", "--batch-size", "4", "--grad-accum", "1", "--learning-rate", "1e-2", "--device", "cpu"]
    commands.run("train-sft", [*flags, *more])
    return folder / "run"


def adapter(folder: Path, base: Path, seed: int = 0):
    """A LoRA checkpoint on a local base, its weights drawn by lot; the adapted model."""
    model, tokenizer, _ = load_model_and_tokenizer(base, "cpu", use_lora=True)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_weights(model, tokenizer, folder)
    (folder / "README.md").write_text(
        "---\nbase_model: base\nlibrary_name: peft\n---\n# A card\n\n## Settings\nr = 16\n"
    )
    return model, tokenizer


def test_final_and_export_work_without_this_checkout_and_are_the_trained_model(lora_run, tmp_path, capsys):
    model, tokenizer, _ = load_model_and_tokenizer(lora_run / "final" / "adapter", "cpu")  # base + adapter, in peft
    ids = PromptFormat.from_tokenizer(tokenizer).encode_prompt(CHAT)
    expected = last_logits(model, ids)
    base, _, _ = load_model_and_tokenizer("tiny", "cpu")
    assert float((expected - last_logits(base, ids)).abs().max()) > 0.01  # the run did move the model
    convert("export", "--checkpoint", lora_run, "--format", "safetensors", "--output", tmp_path / "out")
    assert "largest logit difference 0.0e+00" in capsys.readouterr().out
    for folder in (lora_run / "final", tmp_path / "out"):
        there = elsewhere(folder)
        # Training's prompt ids are chat's, and those of the exported template in plain transformers.
        assert there["ids"] == ids
        assert torch.allclose(torch.tensor(there["logits"]), expected, atol=1e-4, rtol=0)
        assert tokenizer.eos_token_id in there["stops"]


def test_an_adapter_on_a_hub_base_loads_in_plain_peft(tmp_path, monkeypatch):
    base = save_byte_model(tmp_path / "base", "llama")
    model, tokenizer = adapter(tmp_path / "adapter", base)
    monkeypatch.setattr("auto_bot_tuner.utils.saving.base_is_on_hub", lambda model: True)
    save_for_users(model, tokenizer, tmp_path / "final")
    assert (tmp_path / "final" / "adapter_config.json").is_file()
    there = elsewhere(tmp_path / "final", base)
    assert there["ids"] == PromptFormat.from_tokenizer(tokenizer).encode_prompt(CHAT)
    assert torch.allclose(torch.tensor(there["logits"]), last_logits(model, there["ids"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_merging_gives_the_adapted_models_logits_and_says_how_far_they_are(family, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    model, _ = adapter(tmp_path / "adapter", save_byte_model(tmp_path / "base", family))
    convert("merge-lora", "--lora-checkpoint", tmp_path / "adapter", "--output", tmp_path / "merged")
    out = capsys.readouterr().out
    printed = float(out.split("difference to base + adapter ")[1].split()[0])
    assert 0 <= printed < 1e-4 and f"main.py chat {tmp_path / 'merged'}" in out
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ids = [5, 17, 200, 3, 9]
    assert torch.allclose(last_logits(merged, ids), last_logits(model, ids), atol=1e-4, rtol=0)
    with model.disable_adapter():
        assert not torch.allclose(last_logits(merged, ids), last_logits(model, ids), atol=1e-2, rtol=0)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "# A card" in card and "library_name: transformers" in card and "peft" not in card.split("---")[1]


def test_a_reward_adapter_merges_into_a_reward_model_with_its_zero_point(tmp_path, capsys):
    from auto_bot_tuner.rlhf.reward_model import create_reward_model_from_pretrained, load_reward_model

    base = save_byte_model(tmp_path / "base", "llama")
    _, tokenizer, _ = load_model_and_tokenizer(base, "cpu")
    reward_model = create_reward_model_from_pretrained(base, tokenizer, "cpu", use_lora=True)
    for name, parameter in reward_model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    reward_model.offset = 0.75
    reward_model.save_pretrained(tmp_path / "adapter", tokenizer)
    convert("merge-lora", "--lora-checkpoint", tmp_path / "adapter", "--output", tmp_path / "merged")
    assert "largest score difference to base + adapter" in capsys.readouterr().out
    merged, _, _ = load_reward_model(tmp_path / "merged", "cpu")
    rows = torch.tensor([[5, 17, 200, 3, 9]])
    assert merged.offset == 0.75
    assert torch.allclose(merged(rows), reward_model.eval()(rows), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_round_the_weights_and_nothing_else(dtype, tmp_path, capsys):
    from safetensors.torch import load_file

    base = save_byte_model(tmp_path / "base", "qwen2")
    convert("export", "--checkpoint", base, "--format", "safetensors", "--dtype", dtype, "--output", tmp_path / "out")
    assert f"{dtype} moves the logits by at most" in capsys.readouterr().out
    exact, stored = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert exact.keys() == stored.keys()
    for name, tensor in exact.items():
        assert torch.equal(stored[name], tensor.to(getattr(torch, dtype)))


def test_what_is_no_adapter_is_not_merged(lora_run, tmp_path):
    with pytest.raises(UsageError, match=r"merged already \(its adapter alone lies in .*adapter\): use it as it is"):
        convert("merge-lora", "--lora-checkpoint", lora_run, "--output", tmp_path / "out")
    with pytest.raises(UsageError, match=r"tiny is no LoRA adapter .*: it is a whole model"):
        convert("merge-lora", "--lora-checkpoint", "tiny", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert("merge-lora", "--lora-checkpoint", lora_run / "final" / "adapter", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_nothing_is_overwritten_unasked_nor_what_is_no_export(tmp_path):
    base = save_byte_model(tmp_path / "base", "gpt2")
    words = ["export", "--checkpoint", base, "--format", "safetensors", "--output"]
    (tmp_path / "out").mkdir()  # an empty folder is no loss
    convert(*words, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_ino
    with pytest.raises(UsageError, match="exists already: name another --output, or replace it with --overwrite"):
        convert(*words, tmp_path / "out")
    convert(*words, tmp_path / "out", "--overwrite")
    assert (tmp_path / "out" / "model.safetensors").stat().st_ino != before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_mother.txt").write_text("dear")
    (tmp_path / "letters" / "config.json").write_text("{}")  # as programs of all kinds have one
    with pytest.raises(UsageError, match="holds no exported model, so --overwrite leaves it alone"):
        convert(*words, tmp_path / "letters", "--overwrite")
    (tmp_path / "link").symlink_to(base)
    for holder in (base, tmp_path, tmp_path / "out" / ".." / "base", tmp_path / "link"):
        with pytest.raises(UsageError, match="holds the checkpoint itself"):
            convert(*words, holder, "--overwrite")
    assert (base / "model.safetensors").is_file() and (tmp_path / "letters" / "to_mother.txt").is_file()


def test_a_disk_that_is_full_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    base = save_byte_model(tmp_path / "base", "gpt2")
    monkeypatch.setattr("auto_bot_tuner.export.safetensors_folder.save_weights", full)
    with pytest.raises(UserError, match=r"No space left on device\): make room there, then export again"):
        convert("export", "--checkpoint", base, "--format", "safetensors", "--output", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        ("checkpoints/mine/final", "mine"),
        ("checkpoints/mine/final/", "mine"),
        ("checkpoints/mine", "mine"),
        ("checkpoints/mine/final/adapter", "mine"),
        ("checkpoints/mine/checkpoint-40", "mine-checkpoint-40"),
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
        ("tiny", "tiny"),
        ("/", "model"),
    ],
)
def test_an_export_is_called_after_the_run(checkpoint, name):
    assert name_of(checkpoint) == name


def test_a_name_from_inside_the_runs_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert name_of("final") == name_of(".") == "mine"


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "a\\b"])
def test_a_name_leads_nowhere_else(tmp_path, name):
    with pytest.raises(UsageError, match="is no name for a file"):
        convert("export", "--checkpoint", "tiny", "--format", "gguf", "--output", tmp_path / "out", "--name", name)
    assert not list(tmp_path.iterdir())


def test_pickles_and_strangers_code_are_not_run(tmp_path):
    base = save_byte_model(tmp_path / "base", "gpt2")
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pickled weights"):
        convert("export", "--checkpoint", pickled, "--format", "safetensors", "--output", tmp_path / "out")
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "theirs.Config"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="brings Python code of its own"):
        convert("export", "--checkpoint", base, "--format", "safetensors", "--output", tmp_path / "out")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_second_export_carries_one_card_with_one_account_of_itself(tmp_path):
    base = save_byte_model(tmp_path / "base", "gpt2")
    (base / "README.md").write_text("---\nbase_model: x\n---\n# Mine\n![Curves](c.png)\n\n## Settings\nseed 1\n")
    (base / "c.png").write_bytes(b"drawn")
    for source, target in ((base, "one"), (tmp_path / "one", "two")):
        convert("export", "--checkpoint", source, "--format", "safetensors", "--output", tmp_path / target)
    card = (tmp_path / "two" / "README.md").read_text()
    assert (tmp_path / "two" / "c.png").read_bytes() == b"drawn"
    assert card.count("## This export") == 1 and "seed 1" in card and card.startswith("---\nbase_model: x\n")
