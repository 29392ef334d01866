"""`train-sft` and `train-config` from end to end: the same run by flags and by file, and what it leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

import main
from auto_bot_tuner.data.sources import load_rows
from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.utils.run_config import load_run_config
from commands.layers import preset_path
from tests.models import gpt2_tokenizer, tiny_model
from tests.rl_runs import letter_model, letter_tokenizer

ROWS = [{"instruction": f"What is {i} plus 1?", "input": "", "output": f"{i} plus 1 is {i + 1}."} for i in range(24)]


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A folder with a model and a data set, as a user's working directory."""
    monkeypatch.chdir(tmp_path)
    tiny_model("gpt2").save_pretrained("model")
    gpt2_tokenizer().save_pretrained("model")
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


SETTINGS = ["--dataset", "rows.jsonl", "--no-lora", "--batch-size", "4", "--grad-accum", "1", "--max-steps", "2"]
FLAGS = ["--model", "model", *SETTINGS, "--logging-steps", "1", "--num-samples", "0", "--report-to"]


def losses(folder: str) -> list[float]:
    return [record["loss"] for line in Path(folder, "metrics.jsonl").open() if "loss" in (record := json.loads(line))]


def test_flags_and_yaml_train_the_same_run_and_its_config_repeats_it(world, capsys):
    assert main.main(["train-sft", *FLAGS, "--output-dir", "by_flags"]) == 0
    config = {
        "model": {"name": "model", "use_lora": False},
        "dataset": {"name": "rows.jsonl"},
        "training": {"batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 2, "output_dir": "by_file"},
    }
    config["training"] |= {"logging_steps": 1, "num_samples": 0, "report_to": []}
    Path("sft_mine.yaml").write_text(yaml.safe_dump(config))
    assert main.main(["train-config", "sft_mine.yaml"]) == 0
    assert main.main(["train-config", "by_flags/config.yaml", "--type", "sft", "--output-dir", "again"]) == 0

    assert len(losses("by_flags")) == 2
    assert losses("by_flags") == losses("by_file") == losses("again")
    resolved = load_run_config(Path("by_flags/config.yaml"))
    assert resolved.training.learning_rate == 2e-5  # resolved: full fine-tuning
    assert "python main.py chat by_flags/final" in capsys.readouterr().out


def test_lora_gets_its_own_learning_rate(world):
    flags = [flag for flag in FLAGS if flag != "--no-lora"]
    assert main.main(["train-sft", *flags, "--output-dir", "run"]) == 0
    assert load_run_config(Path("run/config.yaml")).training.learning_rate == 2e-4


def test_a_dry_run_shows_the_numbers_and_leaves_nothing(world, capsys):
    assert main.main(["train-sft", *FLAGS, "--output-dir", "run", "--dry-run", "--max-steps", "0"]) == 0
    out = capsys.readouterr().out
    # 24 rows less one held out (5 %), four a step: 6 steps.
    assert "rows     23 of 23" in out and "(6 per epoch)" in out and "one step         4 rows" in out
    assert "auto arithmetic" not in out and re.search(r"device           \w+.*, (fp32|bf16) arithmetic", out)
    assert "100.00%" in out and "⟦" in out  # all weights are trained; the trained part of row 0
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset", "missing.jsonl"], "missing.jsonl"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--resume"], "without --resume"),
        (["--resume", "--model", "no/such/folder"], "without --resume"),  # found before any model is looked for
    ],
)
def test_what_fails_is_one_line_and_exit_code_1(world, capsys, flags, words):
    assert main.main(["train-sft", *FLAGS, "--output-dir", "run", *flags]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_a_finished_run_is_not_overwritten_by_accident(world, capsys):
    assert main.main(["train-sft", *FLAGS, "--output-dir", "run"]) == 0
    before = losses("run")
    assert main.main(["train-sft", *FLAGS, "--output-dir", "run", "--seed", "7"]) == 1
    assert "--overwrite" in capsys.readouterr().err and losses("run") == before
    assert main.main(["train-sft", *FLAGS, "--output-dir", "run", "--seed", "7", "--overwrite"]) == 0
    assert losses("run") != before


def test_no_data_set_is_wrong_usage(world, capsys):
    assert main.main(["train-sft", "--model", "model"]) == 2
    assert "--dataset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("tiny", "dpo_tiny_standard.yaml"),
        ("runs/sft/final", "dpo_tiny_standard.yaml"),
        ("runs/sft", "dpo_tiny_standard.yaml"),
        ("runs/again/checkpoint-7", "dpo_tiny_standard.yaml"),  # went on from runs/sft/final
        ("runs/itself/final", "dpo_gpt2_standard.yaml"),
        ("runs/broken/final", "dpo_gpt2_standard.yaml"),
        ("gpt2", "dpo_gpt2_standard.yaml"),
        ("somewhere/tiny/final", "dpo_gpt2_standard.yaml"),
        ("", "dpo_gpt2_standard.yaml"),
    ],
)
def test_a_preset_goes_by_the_model_that_training_started_from(model, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"sft": "tiny", "again": "runs/sft/final", "itself": "runs/itself/final"}
    for run, name in names.items():
        Path("runs", run).mkdir(parents=True)
        Path("runs", run, "config.yaml").write_text(f"model: {{name: {name}}}\n")
    Path("runs/broken").mkdir()
    Path("runs/broken/config.yaml").write_text("[")
    found = preset_path("dpo", model, "standard")
    assert found is not None and found.name == file


# --- rejection sampling ---


FEWER = "def early(prompt, response):\n    return sum(letter <= 'm' for letter in response) - len(response)\n"
BEST_OF = ["train-sft", "--model", "letters", "--no-lora", "--batch-size", "4", "--grad-accum", "1", "--max-steps", "2"]
BEST_OF += ["--from-best-of", "4", "--reward", "early.py:early", "--best-of-max-new-tokens", "16", "--max-length", "32"]
BEST_OF += ["--logging-steps", "1", "--num-samples", "0", "--report-to", "--output-dir", "run", "--dataset"]


@pytest.fixture
def letters(world) -> None:
    """A model whose answers end now and then, prompts with and without answers, and a reward that tells them apart."""
    letter_model().save_pretrained("letters")
    letter_tokenizer().save_pretrained("letters")
    Path("early.py").write_text(FEWER)
    words = ["".join(chr(97 + (i * j) % 26) for j in range(1, 6)) for i in range(1, 25)]
    Path("asked.jsonl").write_text("".join(json.dumps({"prompt": word}) + "\n" for word in words))
    answered = [json.dumps({"prompt": word, "completion": "yes"}) + "\n" for word in words]
    Path("answered.jsonl").write_text("".join(answered))


def loss_of_yes(prompts: list[str]) -> float:
    """Mean -log p of the letters y, e, s and the end token after each prompt, by the model before training."""
    model, ids = letter_model(), letter_tokenizer().get_vocab()
    found = []
    for prompt in prompts:
        row = torch.tensor([[ids[letter] for letter in f"{prompt}?yes"] + [ids["<end>"]]])
        logprobs = model.eval()(row).logits.detach()[0].log_softmax(-1)
        found += [-float(logprobs[t - 1, row[0, t]]) for t in range(len(prompt) + 1, row.shape[1])]
    return sum(found) / len(found)


def test_the_best_of_the_models_own_answers_are_imitated_and_the_datas_own_measured(letters, capsys):
    assert main.main([*BEST_OF, "answered.jsonl", "--eval-fraction", "0.2"]) == 0
    out = capsys.readouterr().out
    kept = re.search(r"written  4 answers to each of 19 prompts\n.*\nkept +(\d+) best answers", out)
    assert kept is not None and 0 < int(kept[1]) <= 19
    assert f"format   chat ({kept[1]} rows)" in out and "⟦yes" not in out and "evaluation loss" in out
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    first = next(json.loads(line) for line in lines if "eval_loss" in line)
    _, held_out = load_rows(DatasetConfig(name="answered.jsonl", eval_fraction=0.2))
    assert first["eval_loss"] == pytest.approx(loss_of_yes([row["prompt"] for row in held_out]), abs=1e-5)
    config = load_run_config(Path("run/config.yaml"))
    assert config.training.from_best_of == 4 and config.training.reward == ("early.py:early",)
    again = ["train-config", "run/config.yaml", "--output-dir", "again"]
    assert main.main(again) == 0 and losses("again") == losses("run")


def test_prompts_without_answers_are_imitated_but_not_measured(letters, capsys):
    assert main.main([*BEST_OF, "asked.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "evaluation  none: the held-out rows hold no answers" in out and "evaluation loss" not in out
    assert main.main([*BEST_OF, "asked.jsonl", "--dry-run", "--output-dir", "dry"]) == 0
    assert "to each of 8 prompts" in capsys.readouterr().out and not Path("dry").exists()


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (["--reward", "erly.py:early"], "no such file: erly.py", 2),
        (["--reward", "endd"], "did you mean ended?", 2),
        (["--from-best-of", "0"], "from_best_of and reward go together", 2),
        (["--max-length", "16"], "max_length 16 leaves no room", 2),
        (["--best-of-max-new-tokens", "1", "--reward", "length:9"], "none of the model's answers is worth", 1),
    ],
)
def test_best_of_without_its_needs_is_one_line(letters, capsys, flags, words, code):
    assert main.main([*BEST_OF, "asked.jsonl", *flags]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert not Path("run").exists()
