"""Training reward models: planted scores are found, however rows are cut; zero point, checkpoints and final/ hold."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from auto_bot_tuner.rlhf import RewardModel, RewardModelDataset, load_reward_model
from auto_bot_tuner.rlhf.length_rule import judged_pairs, share_longer_is_better
from auto_bot_tuner.training.batching import collate_groups
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.progress import ProgressLine
from auto_bot_tuner.utils import saving
from auto_bot_tuner.utils.errors import UsageError, UserError
from tests.reward_runs import (
    Groups,
    byte_tokenizer,
    random_groups,
    save_byte_model,
    small_reward_model,
    small_reward_trainer,
)
from tests.training_runs import logged, losses, weights


def scores_one_by_one(model: RewardModel, groups: Groups) -> list[torch.Tensor]:
    """(K,) for each group: every response read by itself, unpadded, with its own prompt."""
    return [torch.cat([model(ids[None]) for ids in group.input_ids]) for group in groups.groups]


# --- it learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["pairs", "rankings"])
def test_a_planted_preference_is_found(objective: str, tmp_path: Path) -> None:
    responses, epochs = (2, 5) if objective == "pairs" else (4, 2)
    train, held_out = random_groups(120, responses, 5, words=9), random_groups(50, responses, 6, words=9)
    trainer = small_reward_trainer(tmp_path, train=train, objective=objective, num_epochs=epochs, logging_steps=10)
    trainer.eval_dataset = held_out
    before, summary = trainer.evaluate(), trainer.train()
    assert before["eval_accuracy"] < 0.7 and summary["eval_accuracy"] > 0.85
    assert summary["eval_reward_margin"] > 0.5
    # Counted by hand, from the scores of every response by itself. Rankings leave ties out.
    with torch.no_grad():
        found = scores_one_by_one(trainer.model, held_out)
    right = []
    for scores, group in zip(found, held_out.groups, strict=True):
        pairs = list(judged_pairs(group.scores)) if objective == "rankings" else [(0, 1)]
        right.append(sum(float(scores[i] > scores[j]) for i, j in pairs) / max(len(pairs), 1))
    assert summary["eval_accuracy"] == pytest.approx(sum(right) / 50, abs=1e-6)


def test_planted_scores_are_found_by_regression(tmp_path: Path) -> None:
    """Numbers on a scale of their own: the scores come out as their deviations from the mean."""
    train, held_out = random_groups(120, 3, 5, words=9), random_groups(50, 3, 6, words=9)
    for groups in (train, held_out):
        for group in groups.groups:
            group.scores[:] = [4 * score + 100 for score in group.scores]
    trainer = small_reward_trainer(tmp_path, train=train, objective="scores", num_epochs=5, logging_steps=10)
    trainer.eval_dataset = held_out
    summary = trainer.train()
    assert summary["eval_explained_variance"] > 0.6
    mean = sum(sum(group.scores) / 3 for group in train.groups) / 120
    assert trainer.facts()["objective"] == f"scores, {mean:.4g} on average"
    with torch.no_grad():
        found = torch.cat(scores_one_by_one(trainer.model, held_out))
    planted = torch.tensor([score for group in held_out.groups for score in group.scores]) - mean
    assert torch.corrcoef(torch.stack([found, planted]))[0, 1] > 0.8
    assert (found - planted).square().mean() < 0.4 * planted.square().mean()


def test_cutting_the_rows_of_a_step_differently_gives_the_same_run(tmp_path: Path) -> None:
    cuts = {"8x1": (8, 1, 0), "4x2": (4, 2, 100), "1x8": (1, 8, 1)}
    for name, (batch_size, accumulation, budget) in cuts.items():
        settings = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "micro_batch_tokens": budget}
        small_reward_trainer(tmp_path / name, centering=0.05, **settings).train()
    assert len(losses(tmp_path / "8x1")) == 5
    assert losses(tmp_path / "4x2") == pytest.approx(losses(tmp_path / "8x1"), abs=1e-5)
    assert losses(tmp_path / "1x8") == pytest.approx(losses(tmp_path / "8x1"), abs=1e-5)


@pytest.mark.parametrize("responses", [2, 4])
def test_a_prompt_computed_once_gives_the_scores_and_gradients_of_separate_rows(responses: int, tmp_path: Path) -> None:
    groups = random_groups(6, responses)
    trainer = small_reward_trainer(tmp_path, train=groups, objective="pairs" if responses == 2 else "rankings")
    batch = trainer.collate(groups, range(6))
    assert trainer.scores.is_flat and int(batch["shared"].max()) > 0
    upstream = torch.randn(6 * responses, generator=torch.Generator().manual_seed(0))

    together = trainer.scores(batch["input_ids"], batch["lengths"], batch["shared"])
    (together * upstream).sum().backward()
    shared_gradient = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()

    alone = torch.cat(scores_one_by_one(trainer.model, groups))
    (alone * upstream).sum().backward()
    assert torch.allclose(together, alone, atol=1e-5)
    assert {name for name, p in trainer.model.named_parameters() if p.grad is not None} == shared_gradient.keys()
    for name, gradient in shared_gradient.items():
        assert torch.allclose(gradient, dict(trainer.model.named_parameters())[name].grad, atol=1e-5), name


def test_the_margin_is_the_gap_of_the_datas_own_scores(tmp_path: Path) -> None:
    groups = random_groups(5)
    trainer = small_reward_trainer(tmp_path, train=groups, use_margin=True)
    with torch.no_grad():
        loss, _ = trainer.compute_loss(trainer.collate(groups, range(5)))
        found = scores_one_by_one(trainer.model, groups)
    gaps = [(r[0] - r[1] - (g.scores[0] - g.scores[1])).item() for r, g in zip(found, groups.groups, strict=True)]
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-gap)) for gap in gaps) / 5, abs=1e-5)


def test_what_a_template_writes_after_the_end_token_is_not_read(tmp_path: Path) -> None:
    groups = random_groups(4)
    with_tail = Groups([([], [], [])] * 0)
    for group in groups.groups:
        tail = torch.tensor([7])
        ids = [torch.cat([side, tail]) for side in group.input_ids]
        labels = [torch.cat([side, torch.tensor([-100])]) for side in group.labels]
        with_tail.groups.append(group._replace(input_ids=ids, labels=labels))
    trainer = small_reward_trainer(tmp_path, train=groups)
    batch, longer = trainer.collate(groups, range(4)), trainer.collate(with_tail, range(4))
    assert torch.equal(batch["lengths"], longer["lengths"])
    assert torch.equal(collate_groups(with_tail, range(4))["lengths"], longer["lengths"] + 1)
    with torch.no_grad():
        assert torch.allclose(trainer.compute_loss(batch)[0], trainer.compute_loss(longer)[0], atol=1e-6)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_length_alone_is_measured_beside_the_model(tmp_path: Path) -> None:
    long, short = [5, 5, 5, 5, 0], [6, 0]
    groups = Groups([([1, 2], [long, short], [math.nan] * 2)] * 3 + [([1, 2], [short, long], [math.nan] * 2)])
    assert share_longer_is_better(groups) == 0.75
    assert small_reward_trainer(tmp_path, train=groups).evaluate()["eval_length_accuracy"] == 0.75
    mirrored = Groups([([1, 2], [short, long], [math.nan] * 2)] * 3 + [([1, 2], [long, short], [math.nan] * 2)])
    trainer = small_reward_trainer(tmp_path, train=mirrored)
    assert trainer.evaluate()["eval_length_accuracy"] == 0.75  # here the rule is: shorter
    trainer.eval_dataset = groups  # a rule that training rows teach, and held-out ones belie
    assert trainer.evaluate()["eval_length_accuracy"] == 0.25
    assert share_longer_is_better(Groups([([1], [[2, 0], [3, 0]], [math.nan] * 2)])) == 0.5
    assert list(judged_pairs([3.0, 3.0, 1.0])) == [(0, 2), (1, 2)]


def test_odd_figures_are_told_in_words(tmp_path: Path) -> None:
    trainer = small_reward_trainer(tmp_path)
    good = {"eval_loss": 0.6, "eval_accuracy": 0.9, "eval_length_accuracy": 0.6}
    assert trainer.remarks(good) == []
    (wild,) = trainer.remarks({**good, "eval_loss": 5.0})
    assert "before the first step the loss is 5.00" in wild
    trainer.state.step = trainer.total_steps
    (poor,) = trainer.remarks({**good, "eval_accuracy": 0.58})
    assert "58%, is no better than that of length alone, 60%" in poor


def test_samples_show_responses_with_their_scores(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    rows = [{"prompt": "Name a colour.", "chosen": "Red, or blue.", "rejected": "No."}] * 2
    groups = RewardModelDataset(rows, tokenizer, 64)
    model = small_reward_model()
    model.model = load_byte_reward_model(tmp_path / "base").model
    trainer = small_reward_trainer(tmp_path, train=groups, model=model, num_samples=1, sample_max_new_tokens=5)
    chosen, rejected = trainer.samples()
    assert chosen["prompt"] == rejected["prompt"] == "Name a colour."
    assert (chosen["side"], rejected["side"]) == ("chosen", "rejected")
    assert chosen["response"] == "Red,  …"
    with torch.no_grad():
        assert rejected["score"] == pytest.approx(model(groups[0]["rejected_input_ids"][None]).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("side", "line"), [("chosen", "  chosen → Blue. ■ score 1.50"), (None, "  → Blue. ■ score 1.50")]
)
def test_the_terminal_names_the_side_before_the_arrow(side: str | None, line: str) -> None:
    file = io.StringIO()
    sample = {"prompt": "Sky?", "response": "Blue.", "ended": True, "score": 1.5} | ({"side": side} if side else {})
    ProgressLine(1, 0, Console(file=file, width=80)).show_sample(sample)
    assert file.getvalue().splitlines() == ["  Sky?", line]


def load_byte_reward_model(folder: Path) -> RewardModel:
    from auto_bot_tuner.rlhf import create_reward_model_from_pretrained

    return create_reward_model_from_pretrained(save_byte_model(folder, "llama"), device="cpu")


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_scores_are_centred_on_the_training_rows_and_stay_so(lora: bool, tmp_path: Path) -> None:
    model = small_reward_model(lora)
    model.offset = 123.0  # of an earlier training
    trainer = small_reward_trainer(tmp_path, model=model)
    trainer.train()
    with torch.no_grad():
        found = scores_one_by_one(model, trainer.train_dataset)
        assert torch.stack([scores.mean() for scores in found]).mean().item() == pytest.approx(0, abs=1e-5)
        assert abs(model.offset) > 1e-3
        saved = RewardModel.from_pretrained(tmp_path / "final", device="cpu")
        again = scores_one_by_one(saved, trainer.train_dataset)
    assert torch.allclose(torch.cat(found), torch.cat(again), atol=1e-5)
    card = (tmp_path / "final/README.md").read_text()
    assert (
        f"{model.offset:.6g}" in card and "One row at a time" in card and "AutoModelForSequenceClassification" in card
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_run_that_died_and_was_resumed_gives_the_same_bits(lora: bool, tmp_path: Path) -> None:
    rhythm = {"lora": lora, "save_steps": 2, "logging_steps": 3, "eval_steps": 4, "num_epochs": 2}
    small_reward_trainer(tmp_path / "whole", **rhythm).train()

    def die(event: Event) -> None:
        if event.name == "step" and event.step == 5:
            raise RuntimeError("the power is off")

    dying = small_reward_trainer(tmp_path / "killed", **rhythm)
    dying.callbacks.append(die)
    with pytest.raises(RuntimeError):
        dying.train()
    small_reward_trainer(tmp_path / "killed", resume=True, **rhythm).train()
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    one, other = weights(tmp_path / "whole/final"), weights(tmp_path / "killed/final")
    assert one.keys() == other.keys() and "score.weight" in one
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    configs = [
        RewardModel.from_pretrained(tmp_path / run / "final", device="cpu").offset for run in ("whole", "killed")
    ]
    assert configs[0] == configs[1] != 0


def test_another_objective_is_another_run(tmp_path: Path) -> None:
    small_reward_trainer(tmp_path, max_steps=2, save_steps=1, lr_schedule="constant").train()
    resumed = small_reward_trainer(tmp_path, objective="rankings", max_steps=3, lr_schedule="constant", resume=True)
    with pytest.raises(UserError, match=r"objective was pairs, .* and is rankings, .* now"):
        resumed.train()


def test_a_frozen_base_stays_as_it_is_and_the_head_learns(tmp_path: Path) -> None:
    model = small_reward_model()
    before = {name: p.clone() for name, p in model.model.state_dict().items()}
    trainer = small_reward_trainer(tmp_path, model=model, frozen_base=True, learning_rate=None)
    assert trainer.peak_learning_rate == trainer.config.HEAD_LEARNING_RATE
    trainer.train()
    moved = {name for name, tensor in weights(tmp_path / "final").items() if not torch.equal(tensor, before[name])}
    assert moved == {"score.weight"}


def test_an_adapter_trains_with_its_head_at_an_adapters_learning_rate(tmp_path: Path) -> None:
    trainer = small_reward_trainer(tmp_path, lora=True, learning_rate=None, save_steps=5)
    assert trainer.peak_learning_rate == trainer.config.LORA_LEARNING_RATE
    head = trainer.model.get_base_model().score
    start = head.weight.detach().clone()
    trainer.train()
    assert not torch.equal(head.weight, start)
    assert any("score" in name for name in weights(tmp_path / "checkpoint-5", "adapter_model.safetensors"))
    assert saving.is_adapted(trainer.model.model)


def test_final_is_found_by_the_name_of_the_run(tmp_path: Path) -> None:
    model = load_byte_reward_model(tmp_path / "base")
    rows = [{"prompt": "Name a colour.", "chosen": "Red, or blue.", "rejected": "No."}] * 3
    groups = RewardModelDataset(rows, byte_tokenizer(), 64)
    small_reward_trainer(tmp_path / "run", train=groups, model=model).train()
    loaded, tokenizer, device = load_reward_model(tmp_path / "run", device="cpu")
    assert device == "cpu" and tokenizer.pad_token == tokenizer.eos_token
    ids = groups[0]["chosen_input_ids"][None]
    with torch.no_grad():
        assert loaded(ids).item() == model(ids).item()


# --- bad settings ----------------------------------------------------------------------------------------------------

MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "pairs of three": ({"train": random_groups(3, 3)}, "these rows have 3"),
    "margin without numbers": (
        {"train": Groups([([1], [[2, 0], [3, 3, 0]], [math.nan] * 2)]), "use_margin": True},
        "use_margin needs a number for each response",
    ),
    "scores without numbers": (
        {"train": Groups([([1], [[2, 0], [3, 3, 0]], [math.nan] * 2)]), "objective": "scores"},
        "objective scores needs a number for each response",
    ),
    "a later row without numbers": (
        {"train": Groups([([1], [[2, 0], [3, 3, 0]], [2.0, 1.0]), ([1], [[4, 0], [5, 0]], [math.nan] * 2)])}
        | {"use_margin": True},
        "1 of 2 rows have none",
    ),
    "centring of scores": ({"objective": "scores", "centering": 0.1}, "centering is for pairs and rankings"),
    "smoothed scores": ({"objective": "scores", "label_smoothing": 0.1}, "label_smoothing is for pairs and rankings"),
    "margin of rankings": ({"objective": "rankings", "use_margin": True}, "use_margin is for pairs"),
    "prompts to answer": ({"sample_prompts": ("Who?",)}, "writes no answers"),
    "no rows": ({"train": Groups([])}, "the training set is empty"),
    "head alone, and an adapter": ({"lora": True, "frozen_base": True}, "set one of the two"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_settings_that_the_rows_do_not_serve_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    settings, message = MISFITS[case]
    with pytest.raises(UserError, match=message) as refusal:
        small_reward_trainer(tmp_path, **settings)
    assert "\n" not in str(refusal.value)
    assert isinstance(refusal.value, UsageError) or case == "no rows"


def test_one_epoch_by_default() -> None:
    from auto_bot_tuner.rlhf import RewardModelConfig

    assert RewardModelConfig().num_epochs == 1
