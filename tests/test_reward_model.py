"""Reward models: where a score is read, what a folder gives back, and which models can become one."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, MambaConfig, MambaForCausalLM

from auto_bot_tuner.rlhf import (
    RewardEnsemble,
    RewardModel,
    create_reward_model_from_pretrained,
    load_reward_model,
    score_responses,
)
from auto_bot_tuner.rlhf.scoring import score_rows
from auto_bot_tuner.training.weights import load_weights
from auto_bot_tuner.utils import saving
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from auto_bot_tuner.utils.score_head import with_score_head
from tests.models import tiny_model
from tests.reward_runs import EOS, byte_tokenizer, save_byte_model

FAMILIES = ("gpt2", "llama", "qwen2")
ROWS = [[11, 12, 13, EOS], [21, 22, 23, 24, 25, 26, EOS], [31, EOS, 33], [41]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: save_byte_model(root / family, family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def sft_adapter(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA checkpoint whose adapter has learnt something."""
    model, tokenizer, _ = load_model_and_tokenizer(folders["llama"], device="cpu", use_lora=True)
    shaken(model)
    folder = tmp_path_factory.mktemp("sft") / "checkpoint-3"
    saving.save_weights(model, tokenizer, folder)
    return folder


def shaken(model: torch.nn.Module, seed: int = 1) -> None:
    """Trained weights, as if they had been trained: LoRA's B is no longer zero, the head no longer as drawn."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """ROWS as one batch, padded on this side with the end token's own id."""
    longest = max(map(len, ROWS))
    filler = [[EOS] * (longest - len(row)) for row in ROWS]
    zeros, ones = [[0] * len(fill) for fill in filler], [[1] * len(row) for row in ROWS]
    if side == "right":
        ids, mask = (
            [r + f for r, f in zip(ROWS, filler, strict=True)],
            [o + z for o, z in zip(ones, zeros, strict=True)],
        )
    else:
        ids, mask = (
            [f + r for r, f in zip(ROWS, filler, strict=True)],
            [z + o for o, z in zip(ones, zeros, strict=True)],
        )
    return torch.tensor(ids), torch.tensor(mask)


@torch.no_grad()
def scores(model: Any) -> list[float]:
    return [model(torch.tensor([row])).item() for row in ROWS]


@torch.no_grad()
def raw_scores_of_transformers(model: Any) -> list[float]:
    """The oracle: transformers' own classification model, one row at a time."""
    return [model(input_ids=torch.tensor([row])).logits.item() for row in ROWS]


# --- the score -------------------------------------------------------------------------------------------------------


def test_the_score_is_the_head_on_the_hidden_state_of_the_last_token(folder: Path) -> None:
    model = create_reward_model_from_pretrained(folder, device="cpu")
    model.offset = 0.25
    causal = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    head = model.model.score.weight[0]
    with torch.no_grad():
        expected = [
            causal(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -1] @ head - 0.25
            for row in ROWS
        ]
    assert scores(model) == pytest.approx([score.item() for score in expected], abs=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_neither_padding_nor_batch_mates_change_a_score(side: str, folder: Path) -> None:
    model = create_reward_model_from_pretrained(folder, device="cpu")
    with torch.no_grad():
        together = model(*padded(side))
    assert together.shape == (4,)
    assert together.tolist() == pytest.approx(scores(model), abs=1e-5)
    assert score_rows(model, ROWS, batch_size=3) == pytest.approx(scores(model), abs=1e-5)


def test_the_end_token_counts_also_where_it_is_the_pad_token(folder: Path) -> None:
    """The trap: a head that looks for the last id other than pad cannot tell an answer that ended from one that not."""
    model = create_reward_model_from_pretrained(folder, device="cpu")
    ids, mask = torch.tensor([[1, 2, 3, EOS], [1, 2, 3, EOS]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with torch.no_grad():
        without_end, with_end = model(ids, mask).tolist()
        assert abs(without_end - with_end) > 1e-3
        assert model.config.pad_token_id is None  # so that transformers refuses what it would get wrong …
        with pytest.raises(ValueError, match="batch sizes > 1"):
            model.model(input_ids=ids)
        model.config.pad_token_id = EOS  # … as here
        assert model.model(input_ids=ids[1:]).logits.item() == pytest.approx(without_end, abs=1e-5)


def test_a_pad_token_of_its_own_is_told_to_transformers(folders: dict[str, Path]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = "!"
    model = create_reward_model_from_pretrained(folders["llama"], tokenizer, device="cpu")
    assert model.config.pad_token_id == tokenizer.pad_token_id != EOS


def test_a_row_without_a_token_has_no_score(folders: dict[str, Path]) -> None:
    model = create_reward_model_from_pretrained(folders["gpt2"], device="cpu")
    with pytest.raises(ValueError, match="without a real token"):
        model(torch.tensor([[1, 2], [1, 2]]), torch.tensor([[1, 1], [0, 0]]))


def test_a_new_head_has_no_bias_and_variance_1_over_d_plus_1() -> None:
    heads = []
    for seed in range(20):
        model = with_score_head(tiny_model("llama", seed=seed, vocab_size=50, num_hidden_layers=1))
        assert model.score.bias is None and model.score.weight.shape == (1, 32)
        heads.append(model.score.weight)
    drawn = torch.cat(heads)  # 640 numbers: their variance is known to 6 %
    assert drawn.var().item() == pytest.approx(1 / 33, rel=0.2)
    assert drawn.mean().item() == pytest.approx(0, abs=4 * math.sqrt(1 / 33 / 640))


def test_responses_are_scored_to_their_end_token_or_without_it(folders: dict[str, Path]) -> None:
    model = create_reward_model_from_pretrained(folders["gpt2"], device="cpu")
    _, tokenizer, _ = load_model_and_tokenizer(folders["gpt2"], device="cpu")
    chats = [[{"role": "user", "content": "Name a colour."}], [{"role": "user", "content": "What is 2 + 2?"}]]
    texts = [
        tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": answer}], tokenize=False)
        for chat, answer in zip(chats, ["Red.", "Four, I think."], strict=True)
    ]
    ids = [tokenizer(text.rstrip("\n"), add_special_tokens=False)["input_ids"] for text in texts]
    assert [row[-1] for row in ids] == [EOS, EOS]
    with torch.no_grad():
        ended = [model(torch.tensor([row])).item() for row in ids]
        cut = [model(torch.tensor([row[:-1]])).item() for row in ids]
    answers = ["Red.", "Four, I think."]
    assert score_responses(model, tokenizer, chats, answers) == pytest.approx(ended, abs=1e-5)
    assert score_responses(model, tokenizer, chats, answers, ended=[True, False]) == pytest.approx(
        [ended[0], cut[1]], abs=1e-5
    )


def test_a_prompt_that_leaves_no_room_for_an_answer_is_one_line(folders: dict[str, Path]) -> None:
    model = create_reward_model_from_pretrained(folders["gpt2"], device="cpu")
    _, tokenizer, _ = load_model_and_tokenizer(folders["gpt2"], device="cpu")
    chat = [{"role": "system", "content": "Be brief. " * 500}, {"role": "user", "content": "Name a colour."}]
    with pytest.raises(UserError, match="leaves no room for an answer") as refusal:
        score_responses(model, tokenizer, [chat], ["Red."])
    assert "\n" not in str(refusal.value)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_saved_reward_model_scores_as_before(lora: bool, folder: Path, tmp_path: Path) -> None:
    model = create_reward_model_from_pretrained(folder, device="cpu", use_lora=lora)
    shaken(model)
    model.offset = -1.75
    model.save_pretrained(tmp_path)
    again = RewardModel.from_pretrained(tmp_path, device="cpu")
    assert scores(again) == scores(model) and again.offset == -1.75
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_the_folder_opens_in_plain_transformers(folder: Path, tmp_path: Path) -> None:
    model = create_reward_model_from_pretrained(folder, device="cpu")
    model.offset = 3.0
    model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert [raw - 3.0 for raw in raw_scores_of_transformers(plain)] == pytest.approx(scores(model), abs=1e-5)


def test_the_adapters_folder_opens_in_plain_peft_head_included(folder: Path, tmp_path: Path) -> None:
    model = create_reward_model_from_pretrained(folder, device="cpu", use_lora=True)
    shaken(model)
    model.offset = 3.0
    model.save_pretrained(tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path).eval()
    assert [raw - 3.0 for raw in raw_scores_of_transformers(plain)] == pytest.approx(scores(model), abs=1e-5)


def test_an_adapter_on_a_bfloat16_base_is_merged_though_its_head_is_float32(folder: Path, tmp_path: Path) -> None:
    """transformers' own forward multiplies bfloat16 states by the float32 head, and fails: here it must not."""
    model = create_reward_model_from_pretrained(folder, device="cpu", use_lora=True, dtype="bfloat16")
    shaken(model)
    difference = saving.save_for_users(model.model, byte_tokenizer(), tmp_path / "final")
    assert difference < 0.1
    assert scores(RewardModel.from_pretrained(tmp_path / "final", "cpu")) == pytest.approx(scores(model), abs=0.1)


@pytest.mark.parametrize("on_hub", [False, True], ids=["merged", "adapter"])
def test_final_of_lora_stands_alone(on_hub: bool, folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder, tmp_path / "base")
    model = create_reward_model_from_pretrained(base, device="cpu", use_lora=True)
    shaken(model)
    model.offset = 0.5
    before = scores(model)
    if on_hub:
        model.model.active_peft_config.base_model_name_or_path = "someone/base"
    saving.save_for_users(model.model, byte_tokenizer(), tmp_path / "final")
    assert scores(model) == before
    if on_hub:
        assert not (tmp_path / "final/model.safetensors").exists()
        return
    shutil.rmtree(base)  # another machine
    again, _, _ = load_reward_model(tmp_path / "final", device="cpu")
    assert scores(again) == pytest.approx(before, abs=1e-5)
    assert not any(p.requires_grad for p in again.parameters())


def test_sft_is_not_lost_where_a_reward_model_starts_from_its_adapter(sft_adapter: Path, tmp_path: Path) -> None:
    causal, _, _ = load_model_and_tokenizer(sft_adapter, device="cpu")
    base_hidden, hidden = [], []
    with torch.no_grad():
        for row in ROWS:
            ids = torch.tensor([row])
            hidden.append(causal(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1])
            with causal.disable_adapter():
                base_hidden.append(causal(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1])
    for lora in (False, True):
        model = create_reward_model_from_pretrained(sft_adapter, device="cpu", use_lora=lora)
        head = model.get_base_model().score.weight[0]
        assert scores(model) == pytest.approx([(h @ head).item() for h in hidden], abs=1e-4)
        assert scores(model) != pytest.approx([(h @ head).item() for h in base_hidden], abs=1e-2)
    # The second one, trained: its final/ is a whole model, its checkpoint an adapter on the SFT checkpoint.
    shaken(model)
    assert not saving.base_is_on_hub(model.model)
    model.save_pretrained(tmp_path / "checkpoint-1")
    assert scores(RewardModel.from_pretrained(tmp_path / "checkpoint-1", device="cpu")) == scores(model)


def test_a_reward_model_is_trained_on_with_its_own_head(folders: dict[str, Path], tmp_path: Path) -> None:
    first = create_reward_model_from_pretrained(folders["gpt2"], device="cpu", use_lora=True)
    shaken(first)
    first.save_pretrained(tmp_path / "adapter")
    for lora in (False, True):  # an adapter goes on training itself either way
        again = create_reward_model_from_pretrained(tmp_path / "adapter", byte_tokenizer(), "cpu", use_lora=lora)
        assert scores(again) == scores(first)
    whole = create_reward_model_from_pretrained(folders["gpt2"], device="cpu")
    whole.save_pretrained(tmp_path / "whole", byte_tokenizer())
    for lora in (False, True):
        again = create_reward_model_from_pretrained(tmp_path / "whole", device="cpu", use_lora=lora)
        assert scores(again) == scores(whole)
        assert saving.is_adapted(again.model) == lora


def test_the_bundled_model_becomes_one_as_the_specification_writes_it() -> None:
    from src.auto_bot_tuner.rlhf import create_reward_model_from_pretrained as create

    _, tokenizer, _ = load_model_and_tokenizer("tiny", device="cpu")
    reward_model = create("tiny", tokenizer)
    assert reward_model(torch.tensor([[5, 6, 7]]).to(reward_model.device)).shape == (1,)


def test_frozen_parts(folders: dict[str, Path]) -> None:
    model = create_reward_model_from_pretrained(folders["gpt2"], device="cpu", frozen_base=True, dtype="bfloat16")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert list(trained) == ["model.score.weight"] and trained["model.score.weight"].dtype == torch.float32
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    adapted = create_reward_model_from_pretrained(folders["gpt2"], device="cpu", use_lora=True)
    trained_names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "score" in name for name in trained_names)
    assert sum("score" in name for name in trained_names) == 1
    with pytest.raises(UsageError, match="set one of the two"):
        create_reward_model_from_pretrained(folders["gpt2"], device="cpu", use_lora=True, frozen_base=True)
    with pytest.raises(UsageError, match="dtype bfloat16 is for frozen weights"):
        create_reward_model_from_pretrained(folders["gpt2"], device="cpu", dtype="bfloat16")


# --- what cannot be a reward model says so ---------------------------------------------------------------------------


def test_a_language_model_is_no_reward_model_and_the_other_way_round(
    folders: dict[str, Path], sft_adapter: Path, tmp_path: Path
) -> None:
    for name in (folders["gpt2"], folders["llama"], sft_adapter):
        with pytest.raises(UserError, match=r"holds no reward head.*main\.py train-reward"):
            load_reward_model(name, device="cpu")
        with pytest.raises(UserError, match="holds no reward head"):
            RewardModel.from_pretrained(name, device="cpu")
    for family in ("gpt2", "llama"):  # GPT-2's head is its embedding: without the check this would load
        model = create_reward_model_from_pretrained(folders[family], device="cpu")
        model.save_pretrained(tmp_path / family, byte_tokenizer())
        with pytest.raises(UserError, match="is a reward model: it scores text and writes none"):
            load_model_and_tokenizer(tmp_path / family, device="cpu")


def test_a_classifier_of_several_labels_is_no_reward_model(folders: dict[str, Path], tmp_path: Path) -> None:
    three = AutoModelForSequenceClassification.from_pretrained(folders["llama"], num_labels=3)
    three.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a classifier but no reward model"):
        RewardModel.from_pretrained(tmp_path, device="cpu")


def test_an_architecture_without_a_score_head_is_refused_in_one_line() -> None:
    config = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)
    with pytest.raises(UserError, match="no mamba with a linear score head: choose another") as refusal:
        with_score_head(MambaForCausalLM(config))
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_without_its_head_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers would draw a new head, peft keep the one in memory, each without a word."""
    whole = create_reward_model_from_pretrained(folders["llama"], device="cpu")
    with pytest.raises(UserError, match=r"lacks the weights of score\.weight"):
        load_weights(whole.model, folders["llama"])
    whole.save_pretrained(tmp_path / "whole")
    without_head(tmp_path / "whole/model.safetensors")
    with pytest.raises(UserError, match=r"lacks the weights of score\.weight"):
        RewardModel.from_pretrained(tmp_path / "whole", device="cpu")

    adapted = create_reward_model_from_pretrained(folders["llama"], device="cpu", use_lora=True)
    adapted.save_pretrained(tmp_path / "adapter")
    without_head(tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(UserError, match=r"another adapter: .*score\.weight"):
        load_weights(adapted.model, tmp_path / "adapter")
    with pytest.raises(UserError, match=r"does not fit its base model .*score\.weight"):
        RewardModel.from_pretrained(tmp_path / "adapter", device="cpu")


def without_head(path: Path) -> None:
    save_file({name: t for name, t in load_file(path).items() if "score" not in name}, path, {"format": "pt"})


def test_a_lost_offset_would_be_seen(folders: dict[str, Path], tmp_path: Path) -> None:
    model = create_reward_model_from_pretrained(folders["gpt2"], device="cpu", use_lora=True)
    model.offset = 2.0
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["reward_offset"] == 2.0
    (tmp_path / "config.json").unlink()  # as other tools write adapters: their scores are not centred
    assert [s - 2.0 for s in scores(RewardModel.from_pretrained(tmp_path, device="cpu"))] == pytest.approx(
        scores(model), abs=1e-6
    )


# --- ensembles -------------------------------------------------------------------------------------------------------


def test_an_ensemble_is_as_sure_as_its_members(folders: dict[str, Path]) -> None:
    models = [create_reward_model_from_pretrained(folders["gpt2"], device="cpu") for _ in range(3)]
    models[0].offset = 1.0
    single = torch.tensor([scores(model) for model in models], dtype=torch.float64)  # (3, 4)
    mean = single.sum(0) / 3
    deviation = (((single - mean) ** 2).sum(0) / 2).sqrt()
    expected = {"mean": mean, "min": single.min(0).values, "mean_minus_std": mean - deviation}
    for how, values in expected.items():
        with torch.no_grad():
            together = RewardEnsemble(models, how)(*padded("left"))
        assert together.tolist() == pytest.approx(values.tolist(), abs=1e-5), how
    assert score_rows(RewardEnsemble(models), ROWS) == pytest.approx(mean.tolist(), abs=1e-5)


def test_an_ensemble_that_cannot_be_says_why(folders: dict[str, Path]) -> None:
    model = create_reward_model_from_pretrained(folders["gpt2"], device="cpu")
    other = RewardModel(with_score_head(tiny_model("gpt2", vocab_size=20)))
    with pytest.raises(UsageError, match="mean, min, mean_minus_std"):
        RewardEnsemble([model], "median")
    with pytest.raises(UsageError, match="needs more than 1"):
        RewardEnsemble([model], "mean_minus_std")
    with pytest.raises(UsageError, match="one tokenizer"):
        RewardEnsemble([model, other])
