"""The hub path is real: SPEC.md's commands and code run as written, against a stand-in that speaks the hub's protocol.

Each test is a process of its own, since huggingface_hub reads HF_ENDPOINT once, when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_standin import Hub

ROOT = Path(__file__).resolve().parent.parent
NOWHERE = "http://127.0.0.1:9"  # nothing listens there: the connection is refused at once

SPEC_PATTERNS = """
from src.auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
model, tokenizer, device = load_model_and_tokenizer("gpt2", use_lora=True)

from datasets import load_dataset
from src.auto_bot_tuner.sft import InstructionDataset
raw = load_dataset("yahma/alpaca-cleaned", split="train")
dataset = InstructionDataset(raw, tokenizer, max_length=512, format_type="alpaca")
"""

SPEC_PREFERENCE_PATTERNS = """
from src.auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
policy_model, tokenizer, device = load_model_and_tokenizer("gpt2")

from src.auto_bot_tuner.dpo import create_reference_model
ref_model = create_reference_model(policy_model, device)  # Frozen deep copy

from src.auto_bot_tuner.rlhf import create_reward_model_from_pretrained
reward_model = create_reward_model_from_pretrained("gpt2", tokenizer)
"""

DOWNLOAD = "from huggingface_hub import snapshot_download; snapshot_download('gpt2')"


def python(*words: str, endpoint: str, home: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


def test_code_patterns_run_as_written(hub: Hub, home: Path) -> None:
    report = """
import json
row = dataset[0]
print(json.dumps({"base": model.active_peft_config.base_model_name_or_path, "pad": tokenizer.pad_token,
                  "targets": sorted(model.active_peft_config.target_modules), "rows": len(dataset), "raw": len(raw),
                  "ids": tokenizer("Hello world").input_ids, "end": row["input_ids"][-1].item(), "device": device}))
"""
    done = python("-c", SPEC_PATTERNS + report, endpoint=hub.url, home=home)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["base"] == "gpt2" and facts["pad"] == "<|endoftext|>" and facts["targets"] == ["c_attn", "c_proj"]
    assert facts["rows"] == facts["raw"] == 96
    assert facts["ids"] == [15496, 995] and facts["end"] == 50256  # GPT-2's real ids of "Hello world"
    fetched = {line.rsplit("/", 1)[-1] for line in hub.requests if line.startswith("GET") and "/api/" not in line}
    assert "model.safetensors" in fetched
    assert not fetched & {"pytorch_model.bin", "tf_model.h5", "64.tflite", "decoder_model.onnx"}


def test_code_patterns_of_preferences_run_as_written(hub: Hub, home: Path) -> None:
    report = """
import json, torch
texts = ["What is red?", "What is red, and what is blue?"]
batch = tokenizer(texts, padding=True, return_tensors="pt")
scores = reward_model(batch.input_ids, batch.attention_mask)
alone = [reward_model(torch.tensor([tokenizer(text).input_ids])).item() for text in texts]
same = [torch.equal(a, b) and a.data_ptr() != b.data_ptr()
        for a, b in zip(policy_model.parameters(), ref_model.parameters())]
print(json.dumps({"copied": all(same), "frozen": not any(p.requires_grad for p in ref_model.parameters()),
                  "eval": not ref_model.training, "trains": all(p.requires_grad for p in policy_model.parameters()),
                  "scores": scores.tolist(), "alone": alone,
                  "reward_trains": any(p.requires_grad for p in reward_model.parameters())}))
"""
    done = python("-c", SPEC_PREFERENCE_PATTERNS + report, endpoint=hub.url, home=home)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert all(facts[claim] for claim in ("copied", "frozen", "eval", "trains", "reward_trains"))
    assert facts["scores"] == pytest.approx(facts["alone"], abs=1e-5)  # one number each, whatever the batch mate


def run_commands(commands: list[str], endpoint: str, home: Path, cwd: Path) -> list[tuple[int, str]]:
    """(exit code, stderr) of each `python main.py COMMAND`, in one process: importing torch takes most of a run."""
    script = f"""
import contextlib, io, json, sys
sys.path.insert(0, {str(ROOT)!r})
import src, main
for command in {commands!r}:
    with contextlib.redirect_stderr(io.StringIO()) as caught, contextlib.redirect_stdout(io.StringIO()):
        code = main.main(command.split())
    print(json.dumps([code, caught.getvalue()]))
"""
    done = python("-c", script, endpoint=endpoint, home=home, cwd=cwd)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [(code, message) for code, message in map(json.loads, done.stdout.splitlines())]


def short_runs(commands: list[str], runs: list[Path], hub: Hub, home: Path) -> list[tuple[int, str]]:
    """The commands with fewer steps than their presets', so that a test can wait for them; all of them end well."""
    short = "--max-steps 2 --max-samples 24 --output-dir"
    done = run_commands([f"{c} {short} {run}" for c, run in zip(commands, runs, strict=True)], hub.url, home, ROOT)
    assert [code for code, _ in done] == [0, 0], done
    return done


def test_commands_run_as_written(hub: Hub, home: Path, tmp_path: Path) -> None:
    commands = [
        "train-sft --model gpt2 --dataset yahma/alpaca-cleaned --preset quick",
        "train-config configs/sft_gpt2_quick.yaml",
    ]
    runs = [tmp_path / "flags", tmp_path / "yaml"]
    done = short_runs([f"{command} --max-length 64" for command in commands], runs, hub, home)
    for run, (_, message) in zip(runs, done, strict=True):
        assert "Retrying" not in message and "Traceback" not in message
        # The base is on the hub: final/ is the adapter alone, with the name by which any machine finds the base.
        assert json.loads((run / "final/adapter_config.json").read_text())["base_model_name_or_path"] == "gpt2"
        names = {path.name for path in (run / "final").iterdir()}
        assert {"adapter_model.safetensors", "tokenizer.json", "README.md"} <= names
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    losses = [[line["loss"] for line in log if "loss" in line] for log in logs]
    assert losses[0] and losses[0] == losses[1]  # flags and YAML are the same run


def test_preference_commands_run_on_the_hub_s_transcripts(hub: Hub, home: Path, tmp_path: Path) -> None:
    commands = [
        "train-reward --model gpt2 --dataset Anthropic/hh-rlhf --preset quick",
        "train-dpo --model gpt2 --dataset Anthropic/hh-rlhf --beta 0.1 --preset quick",
    ]
    runs = [tmp_path / "reward", tmp_path / "dpo"]
    short_runs(commands, runs, hub, home)
    for run in runs:
        # Both sides' first row asks twice; what is compared is the last answer.
        log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert any("eval_accuracy" in line for line in log)
        assert json.loads((run / "final/adapter_config.json").read_text())["base_model_name_or_path"] == "gpt2"
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # DPO starts where policy and reference agree: ln 2


def must_be_one_line(failure: tuple[int, str], *phrases: str) -> None:
    code, message = failure
    assert code == 1 and message.count("\n") == 1, message
    assert message.startswith("error: ") and "unexpected" not in message, message
    for phrase in phrases:
        assert phrase in message


def test_missing_and_gated_say_what_to_do_in_one_line(hub: Hub, tmp_path: Path) -> None:
    short = "--max-steps 1 --output-dir run"
    data = "--dataset tiny-instructions"
    missing, typo, gated, no_data = run_commands(
        [
            f"train-sft --model no/such-model {data} {short}",
            f"train-sft --model checkpoints/sft/fnial {data} {short}",
            f"train-sft --model strict/gated-model {data} {short}",
            f"train-sft --model gpt2 --dataset no/such-data {short}",
        ],
        hub.url,
        tmp_path / "home",
        tmp_path,
    )
    must_be_one_line(missing, "no model no/such-model", "check the spelling", "hf auth login")
    must_be_one_line(typo, "no model folder checkpoints/sft/fnial here", "mend the path")
    must_be_one_line(gated, "strict/gated-model is gated", f"{hub.url}/strict/gated-model", "hf auth login")
    must_be_one_line(no_data, "no data set 'no/such-data'", "check the spelling")
    assert not (tmp_path / "run").exists()


def test_without_a_hub_one_line_says_so_and_what_is_here_works_on(hub: Hub, home: Path, tmp_path: Path) -> None:
    assert python("-c", DOWNLOAD, endpoint=hub.url, home=home).returncode == 0
    model, data, cached = run_commands(
        [
            "train-sft --model openai-community/gpt2-xl --dataset tiny-instructions --max-steps 1 --output-dir run",
            "train-sft --model gpt2 --dataset some/data --max-steps 1 --output-dir run",
            "train-sft --model gpt2 --dataset tiny-instructions --max-samples 8 --dry-run",
        ],
        NOWHERE,
        home,
        tmp_path,
    )
    must_be_one_line(model, "cannot reach the model hub", "the bundled model, tiny", NOWHERE)
    must_be_one_line(data, "cannot reach the hub", "--dataset tiny-instructions", NOWHERE)
    assert cached == (0, "")
    assert not (tmp_path / "run").exists()
