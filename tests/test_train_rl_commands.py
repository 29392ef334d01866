"""`train-ppo` and `train-grpo` from end to end on the bundled world: what they say, refuse, and leave behind."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml

import commands
import main
from auto_bot_tuner.rlhf import shared_backbone
from auto_bot_tuner.utils.run_config import TRAINING_CLASSES, load_run_config
from auto_bot_tuner.utils.settings import all_settings
from commands import CONFIGS, train_ppo
from commands.train_config import RECIPES

QUIET = ["--logging-steps", "1", "--num-samples", "0", "--report-to"]
SHORT = [
    *("--model", "tiny", "--dataset", "tiny-prompts", "--max-samples", "12", "--eval-max-samples", "4"),
    *("--batch-size", "4", "--max-new-tokens", "12", "--max-steps", "2"),
]
PPO = ["train-ppo", *SHORT, "--minibatches", "1", "--epochs-per-rollout", "2", "--output-dir", "run", *QUIET]
GRPO = ["train-grpo", *SHORT, "--group-size", "3", "--reward", "gold", "--output-dir", "run", *QUIET]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> str:
    """A reward model of the bundled world after one step."""
    folder = tmp_path_factory.mktemp("reward")
    flags = ["--model", "tiny", "--dataset", "tiny-preferences", "--max-samples", "40", "--eval-fraction", "0"]
    flags += ["--no-lora", "--max-steps", "1", "--output-dir", str(folder)]
    assert main.main(["train-reward", *flags, *QUIET]) == 0
    return str(folder / "final")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logged(folder: str, name: str) -> list[float]:
    return [record[name] for line in Path(folder, "metrics.jsonl").open() if name in (record := json.loads(line))]


def last_error(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


# --- from end to end ---


def test_ppo_trains_by_a_reward_model_and_its_config_repeats_the_run(reward_model, capsys):
    assert main.main([*PPO, "--no-lora", "--reward-model", reward_model, "--reward", "0.1*ended"]) == 0
    out = capsys.readouterr().out
    assert "reward           reward_model + 0.1 * ended" in out
    assert "one step         4 prompts (batch 4 x accumulation 1 x processes 1)" in out and "of responses" in out
    assert "prompts  12 of 12 rows" in out and "### Response:" in out and "rows (batch" not in out
    assert ", evaluation reward " in out and "python main.py chat run/final" in out
    assert len(logged("run", "loss")) == 2 and logged("run", "eval_kl")[0] == pytest.approx(0, abs=1e-4)
    assert Path("run/final/model.safetensors").is_file()

    assert main.main(["train-config", "run/config.yaml", "--output-dir", "again"]) == 0
    assert logged("again", "loss") == logged("run", "loss")
    assert load_run_config(Path("run/config.yaml")).training.learning_rate == 3e-6  # resolved: full fine-tuning


def test_ppo_with_lora_an_ensemble_and_sft_beside_it(reward_model):
    rows = [{"instruction": "Say yes.", "input": "", "output": "yes"}] * 8
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--reward-model", reward_model, reward_model, "--reward-ensemble", "min"]
    assert main.main([*PPO, *flags, "--sft-dataset", "rows.jsonl", "--sft-weight", "0.5"]) == 0
    config = load_run_config(Path("run/config.yaml"))
    assert config.training.reward_model == (reward_model, reward_model) and config.training.sft_weight == 0.5
    assert config.training.learning_rate == 3e-5  # resolved: LoRA
    assert len(logged("run", "sft_loss")) == 2


def test_an_adapted_reward_model_and_its_value_network_share_the_policys_base(capsys, monkeypatch):
    """`final/` holds merged weights, of which only what has no adapter could be shared."""
    flags = ["--model", "tiny", "--dataset", "tiny-preferences", "--max-samples", "40", "--eval-fraction", "0"]
    assert main.main(["train-reward", *flags, "--max-steps", "1", "--output-dir", "reward", *QUIET]) == 0
    capsys.readouterr()
    mine = ["--reward-model", "reward", "--value-from", "reward_model", "--dry-run"]
    held = []  # bytes of policy, value network and reward model in each run
    share = shared_backbone.share_backbone

    def measured(*models):
        freed = share(*models)
        whole = sum(p.nbytes for p in models[0].get_base_model().parameters() if not p.requires_grad)
        held.append((shared_backbone.bytes_of(*models) / whole, len(models)))
        return freed

    monkeypatch.setattr("auto_bot_tuner.rlhf.share_backbone", measured)
    assert main.main([*PPO, *mine]) == 0
    out = capsys.readouterr().out
    assert "reward model     reward/final/adapter: an adapter on the policy's own base" in out
    assert "shared backbone  " in out
    shutil.move("reward/final/adapter", "away")
    assert main.main([*PPO, *mine]) == 0
    out = capsys.readouterr().out
    assert "adapter on the policy's own base" not in out and "shared backbone  " in out
    (with_adapter, models), (merged, _) = held
    assert models == 3 and with_adapter < 1.3 < 2 < merged
    assert main.main([*PPO, *mine, "--no-share-backbone"]) == 0
    assert "shared backbone  " not in capsys.readouterr().out
    assert not Path("run").exists()


def test_a_reward_models_adapter_is_taken_only_on_the_policys_own_base(tmp_path):
    from auto_bot_tuner.training.config import ModelConfig

    def reward(base: str) -> str:
        folder = tmp_path / f"reward{len(list(tmp_path.iterdir()))}"
        (folder / "final" / "adapter").mkdir(parents=True)
        (folder / "final" / "config.json").write_text("{}")
        words = {"peft_type": "LORA", "base_model_name_or_path": base}
        (folder / "final" / "adapter" / "adapter_config.json").write_text(json.dumps(words))
        return str(folder)

    policy = reward("tiny") + "/final/adapter"  # an adapter, too
    on_tiny, elsewhere = reward("tiny"), reward(str(tmp_path / "moved" / "far" / "away"))
    found = on_tiny + "/final/adapter"
    assert train_ppo.adapter_on_same_base(on_tiny, ModelConfig(name="tiny")) == found
    assert train_ppo.adapter_on_same_base(on_tiny, ModelConfig(name=policy, use_lora=False)) == found
    assert train_ppo.adapter_on_same_base(on_tiny, ModelConfig(name="tiny", use_lora=False)) == on_tiny
    assert train_ppo.adapter_on_same_base(on_tiny, ModelConfig(name=on_tiny)) == on_tiny
    assert train_ppo.adapter_on_same_base(elsewhere, ModelConfig(name="tiny")) == elsewhere
    assert train_ppo.adapter_on_same_base(found, ModelConfig(name="tiny")) == found  # named by the user


def test_grpo_by_flags_and_by_yaml_is_the_same_run(capsys):
    assert main.main([*GRPO, "--no-lora"]) == 0
    out = capsys.readouterr().out
    assert "reward           gold" in out and "4 prompts x 3 responses" in out and "and up to 144 of responses" in out
    config = {
        "model": {"name": "tiny", "use_lora": False},
        "dataset": {"name": "tiny-prompts", "max_samples": 12, "eval_max_samples": 4},
        "training": {"batch_size": 4, "group_size": 3, "reward": ["gold"], "max_new_tokens": 12, "max_steps": 2}
        | {"logging_steps": 1, "num_samples": 0, "report_to": [], "output_dir": "by_file"},
    }
    Path("grpo_mine.yaml").write_text(yaml.safe_dump(config))
    assert main.main(["train-config", "grpo_mine.yaml"]) == 0
    assert logged("run", "reward") == logged("by_file", "reward") and len(logged("run", "reward")) == 2
    assert logged("run", "loss") == logged("by_file", "loss")
    by_flags, by_file = (load_run_config(Path(folder, "config.yaml")) for folder in ("run", "by_file"))
    assert by_flags.model == by_file.model and by_flags.dataset == by_file.dataset


# --- presets and help ---


def test_every_method_has_a_verb_a_recipe_and_both_presets_below_its_flags():
    for method in TRAINING_CLASSES:
        recipe = importlib.import_module(RECIPES[method])
        assert commands.VERBS[f"train-{method}"].module == recipe.__name__.removeprefix("commands.")
        for model, preset in itertools.product(("tiny", "gpt2"), ("quick", "standard")):
            below = recipe.layers(["--preset", preset, "--model", model])
            config = load_run_config(CONFIGS / f"{method}_{model}_{preset}.yaml")
            assert (below.method, below.training, below.dataset) == (method, config.training, config.dataset)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*ppo_*.yaml")) + sorted(CONFIGS.glob("grpo_*.yaml")))
def test_presets_name_rewards_that_exist_and_fit_together(path):
    """Their reward models are made by other presets; a rollout's prompts do not exceed the data set."""
    from auto_bot_tuner.rewards import check_reward_names

    config = load_run_config(path)
    check_reward_names(config.training.reward)
    made = {str(load_run_config(other).training.output_dir) + "/final" for other in CONFIGS.glob("*.yaml")}
    assert set(getattr(config.training, "reward_model", ())) <= made
    assert config.model.name in made | {"gpt2"}
    assert config.training.reward or config.training.reward_model


@pytest.mark.parametrize("verb", ["train-ppo", "train-grpo"])
def test_the_help_shows_every_setting(verb, capsys):
    assert main.main([verb, "--help"]) == 0
    page = capsys.readouterr().out
    hidden = {"--method"}
    flags = {setting.flag for setting in all_settings(commands.arguments_class(verb))} - hidden
    assert not [flag for flag in flags if flag not in page]
    assert {"--reward", "--max-new-tokens", "--clip-ratio"} <= flags


# --- what is refused, in one line and in a second ---


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([*PPO], ["--reward-model", "train-reward", "--reward"]),
        ([*PPO, "--reward", "corect"], ["did you mean correct?"]),
        ([*PPO, "--reward", "gold", "--value-from", "reward_model"], ["--value-from policy"]),
        ([*PPO, "--reward", "gold", "--sft-weight", "1"], ["sft_dataset and sft_weight go together"]),
        ([*PPO, "--reward", "gold", "--reward-ensemble", "min"], ["needs two or more reward models"]),
        ([*GRPO[:-1], "--report-to", "--reward", "gould"], ["did you mean gold?"]),
        ([*[word for word in GRPO if word not in ("--reward", "gold")]], ["--reward exact_match"]),
        ([*GRPO, "--format-type", "chat"], ["format_type chat is for SFT", "prompts"]),
        ([*GRPO, "--train-on-prompt"], ["train_on_prompt is for SFT"]),
        ([*GRPO, "--max-prompt-length", "64"], ["max_length is the longest prompt of GRPO"]),
        ([*GRPO, "--preset", "fast"], ["no preset 'fast' for grpo"]),
    ],
)
def test_wrong_usage_is_one_line_with_the_cure(argv, words, capsys):
    assert main.main(argv) == 2
    err = last_error(capsys)
    assert not [word for word in words if word not in err], err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([*PPO, "--reward-model", "checkpoints/reward/none/final"], ["no such folder", "train-reward"]),
        ([*PPO, "--reward-model", "nowhere"], ["--reward-model nowhere: no such folder"]),
        ([*PPO, "--reward-model", "tiny"], ["--reward-model tiny: tiny holds no reward head", "train-reward"]),
        ([*PPO, "--reward", "gold", "--sft-dataset", "no.jsonl", "--sft-weight", "1"], ["no.jsonl"]),
        ([*PPO, "--reward", "gold", "--resume"], ["start without --resume"]),
        ([*GRPO, "--resume"], ["start without --resume"]),
        ([*GRPO, "--model", "no/such/folder"], ["no/such/folder"]),
        ([*GRPO, "--max-length", "8"], ["no prompt is left", "--max-length"]),
    ],
)
def test_what_cannot_be_had_is_one_line(argv, words, capsys):
    assert main.main(argv) == 1
    err = last_error(capsys)
    assert not [word for word in words if word not in err], err
    assert not Path("run").exists()


def test_a_dry_run_finds_that_the_rows_lack_what_the_reward_needs(elsewhere, capsys):
    (elsewhere / "asks.jsonl").write_text('{"prompt": "What is cold?"}\n' * 3)
    flags = ["--model", "tiny", "--dataset", "asks.jsonl", "--eval-fraction", "0", "--reward", "numeric"]
    assert main.main(["train-grpo", *flags, "--dry-run"]) == 1
    assert "numeric needs rows with a reference answer" in last_error(capsys)
