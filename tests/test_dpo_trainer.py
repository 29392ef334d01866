"""DPO runs: however a step is cut it is the same step, a resumed run is the same run, and preferences are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.data.response_groups import Group
from auto_bot_tuner.dpo import dpo_loss
from auto_bot_tuner.dpo.mismatched import drift
from auto_bot_tuner.dpo.trainer import kl_estimate
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.utils.errors import UsageError, UserError
from tests.preference_runs import Pairs, dpo_trainer
from tests.test_dpo_reference import response_logprobs, trained_adapter
from tests.training_runs import STOP, logged, losses, small_model, weights

EXACT = {"learning_rate": 1e-2, "weight_decay": 0.1, "num_epochs": 1}


def close(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4, rel=2e-4)


def test_ktos_reference_point_is_that_of_other_prompts_where_neighbours_share_one(tmp_path: Path) -> None:
    """A pair becomes two answers to one prompt, side by side: neither is a mismatched pairing of the other."""
    rows, mismatched = Pairs(4, sides=1), Pairs(4, sides=1)
    rows.questions = mismatched.questions = [rows.questions[i] for i in (0, 0, 2, 2)]
    mismatched.answers = [rows.answers[i] for i in (3, 3, 1, 1)]
    policy = small_model()
    policy.lm_head.weight.data[STOP] += 0.5
    trainer = dpo_trainer(tmp_path, policy, small_model(), rows, loss="kto")
    before, after = (
        [response_logprobs(model.eval(), mismatched, row, 0) for row in range(4)] for model in (small_model(), policy)
    )
    assert drift(trainer, rows, range(4)).item() == pytest.approx((sum(after) - sum(before)) / 4, abs=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "orpo", "kto"])
def test_a_step_is_the_same_however_it_is_cut(loss: str, tmp_path: Path) -> None:
    """8x1 == 4x2 == 1x8 == four micro-batches by a token budget, KTO's reference point included."""
    cuts: dict[str, dict[str, Any]] = {
        "8x1": {"batch_size": 8, "gradient_accumulation_steps": 1, "micro_batch_tokens": 10_000},
        "4x2": {"batch_size": 4, "gradient_accumulation_steps": 2, "micro_batch_tokens": 100},
        "1x8": {"batch_size": 1, "gradient_accumulation_steps": 8, "micro_batch_tokens": 1, "eval_batch_size": 1},
    }
    beta = 0.5 if loss == "ipo" else 0.1
    runs = {}
    for name, settings in cuts.items():
        dpo_trainer(tmp_path / name, loss=loss, beta=beta, sft_weight=0.0, **EXACT, **settings).train()
        runs[name] = logged(tmp_path / name)
    close(runs["4x2"], runs["8x1"])
    close(runs["1x8"], runs["8x1"])
    assert len(losses(tmp_path / "8x1")) == 3  # 22 rows: the last step has six


def test_metrics_of_an_evaluation_are_those_of_its_definition(tmp_path: Path) -> None:
    """From plain logits of one row at a time, a policy that has moved, and the loss of `loss.py`."""
    trainer = dpo_trainer(tmp_path, max_steps=2, sft_weight=0.5)
    trainer.train()
    found, rows = trainer.evaluate(), trainer.eval_dataset
    policy, reference = trainer.model.eval(), small_model().eval()
    sides = [
        torch.tensor([response_logprobs(model, rows, row, side) for row in range(len(rows))])
        for model in (policy, reference)
        for side in (0, 1)
    ]
    lengths = [torch.tensor([len(answers[side]) for answers in rows.answers]) for side in (0, 1)]
    _, expected = dpo_loss(*sides, 0.1, sft_weight=0.5, chosen_lengths=lengths[0], rejected_lengths=lengths[1])
    for name, value in expected.items():
        assert found[f"eval_{name}"] == pytest.approx(value, abs=1e-4), name
    assert found["eval_chosen_logprobs"] == pytest.approx(sides[0].mean().item(), abs=1e-3)
    assert found["eval_rejected_logprobs"] == pytest.approx(sides[1].mean().item(), abs=1e-3)
    assert found["eval_sft_loss"] == pytest.approx(-(sides[0] / lengths[0]).mean().item(), abs=1e-4)
    assert found["eval_kl"] > 0


def test_the_kl_estimate_is_the_divergence_of_a_policy_that_moved_little_and_bears_one_that_moved_far() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, move = torch.randn(2, 5, generator=generator, dtype=torch.float64)  # one token each, of five
    reference, policy = logits.log_softmax(dim=-1), (logits + 0.01 * move).log_softmax(dim=-1)
    exact = (reference.exp() * (reference - policy)).sum().item()
    of_each = torch.stack([kl_estimate(policy[i].view(1, 1), reference[i].view(1, 1)) for i in range(5)])
    assert (reference.exp() * of_each).sum().item() == pytest.approx(exact, rel=0.02)
    # Two answers: tokens that moved by 1 and -2 nats, and by 7: (1/2 + 4/2 + 49/2) / 2.
    assert kl_estimate(torch.tensor([[1.0, -2.0], [7.0, 0.0]]), torch.zeros(2, 2)).item() == pytest.approx(13.5)


# ---- traps ----


def test_the_end_token_counts_though_it_is_the_padding_too(tmp_path: Path) -> None:
    """Rows that differ in nothing but whether the answer ends: without its end token nothing would be learnt."""

    class EndedOrNot(Pairs):
        def group(self, index: int) -> Group:
            prompt, answer = self.questions[index], self.answers[index][0]
            ended, endless = torch.cat([prompt, answer]), torch.cat([prompt, answer[:-1], torch.tensor([9])])
            labels = [torch.cat([torch.full_like(prompt, -100), ids[len(prompt) :]]) for ids in (ended, endless)]
            return Group([ended, endless], labels, len(prompt), [torch.nan] * 2)

    trainer = dpo_trainer(tmp_path, rows=EndedOrNot(), num_epochs=6)
    assert trainer.tokenizer.pad_token_id != STOP or trainer.model.config.pad_token_id == STOP
    assert trainer.train()["reward_margin"] > 0.3


def test_prompt_tokens_change_nothing_but_what_is_read(tmp_path: Path) -> None:
    """The trap rebuilt: with the prompt's labels on, the prompt's log-probabilities are counted along."""

    class WithPrompt(Pairs):
        def group(self, index: int) -> Group:
            group = super().group(index)
            return group._replace(labels=list(group.input_ids))

    masked, counted = (dpo_trainer(tmp_path / name, rows=rows()) for name, rows in (("a", Pairs), ("b", WithPrompt)))
    row = masked.train_dataset.group(4)
    expected = response_logprobs(small_model().eval(), masked.train_dataset, 4, 0)

    def chosen(trainer: Any) -> float:
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.collate(trainer.train_dataset, [4]))[1]["chosen_logprobs"])

    assert chosen(masked) == pytest.approx(expected, abs=1e-4)
    assert chosen(counted) < expected - 1.0 * row.prompt_length  # each prompt token costs about ln 97


# ---- the same run again ----


class Killed(Exception):
    pass


def killing_at(step: int) -> Any:
    def kill(event: Event) -> None:
        if event.name == "step" and event.step == step:
            raise Killed

    return kill


@pytest.mark.parametrize(
    ("loss", "reference", "policy"),
    [
        ("sigmoid", "copy", small_model),
        ("ipo", "precomputed", small_model),
        ("sigmoid", "adapter_copy", trained_adapter),
        ("kto", "adapter_off", lambda: small_model(lora=True)),
    ],
    ids=["copy", "precomputed", "adapter_copy", "kto"],
)
def test_a_resumed_run_gives_the_bits_of_an_uninterrupted_one(
    loss: str, reference: str, policy: Any, tmp_path: Path
) -> None:
    rhythm: dict[str, Any] = {"loss": loss, "reference": reference, "save_steps": 2, "eval_steps": 2, "max_steps": 5}
    dpo_trainer(tmp_path / "whole", policy(), **rhythm).train()
    killed = dpo_trainer(tmp_path / "killed", policy(), **rhythm)
    killed.callbacks.append(killing_at(3))
    with pytest.raises(Killed):
        killed.train()
    dpo_trainer(tmp_path / "killed", policy(), **rhythm, resume=True).train()
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    name = "model.safetensors" if policy is small_model else "adapter/adapter_model.safetensors"
    whole, resumed = weights(tmp_path / "whole" / "final", name), weights(tmp_path / "killed" / "final", name)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_a_run_is_not_resumed_against_another_reference(tmp_path: Path) -> None:
    dpo_trainer(tmp_path, save_steps=1, max_steps=2, lr_schedule="constant").train()
    other = small_model()
    other.lm_head.weight.data[0, 0] += 1
    with pytest.raises(UserError, match="reference was copy"):
        dpo_trainer(tmp_path, other, max_steps=3, resume=True, lr_schedule="constant").train()
    was = r"loss was sigmoid, beta 0\.1, sft_weight 0 and is "
    for settings, now in (
        ({"loss": "hinge"}, "hinge, beta 0.1, sft_weight 0"),
        ({"sft_weight": 0.5}, "sigmoid, .* 0.5"),
    ):
        with pytest.raises(UserError, match=f"{was}{now} now"):
            dpo_trainer(tmp_path, max_steps=3, resume=True, lr_schedule="constant", **settings).train()


# ---- learning ----


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "simpo", "kto"])
def test_preferences_are_learnt(loss: str, tmp_path: Path) -> None:
    """Chosen answers hold token 7, rejected ones 11; on held-out prompts the policy learns which is which."""

    class Planted(Pairs):
        def __init__(self, count: int = 22, seed: int = 3, sides: int = 2) -> None:
            super().__init__(count, seed, sides)
            for row, answers in enumerate(self.answers):
                for side, answer in enumerate(answers):
                    is_good = self.scores[row][0] == 1 if sides == 1 else side == 0
                    answer[0] = 7 if is_good else 11

    sides = 1 if loss == "kto" else 2
    trainer = dpo_trainer(tmp_path, rows=Planted(32, sides=sides), loss=loss, num_epochs=12, learning_rate=3e-2)
    trainer.eval_dataset = Planted(12, 5, sides)
    before = trainer.evaluate()
    after = trainer.train()
    # KTO's accuracy is harsher: each answer by itself on its side of the reference point.
    assert after["eval_accuracy"] >= (0.7 if loss == "kto" else 0.9) > before["eval_accuracy"]
    assert after["eval_reward_margin"] > before["eval_reward_margin"]
    assert after["eval_loss"] < before["eval_loss"]


def test_an_sft_term_holds_the_chosen_answers_up(tmp_path: Path) -> None:
    """Answers that are equal but for their end: DPO sees only the difference, SFT the whole answer."""
    rows, ends = Pairs(), {}
    for answers in rows.answers:
        answers[1] = torch.cat([answers[0][:-1], torch.tensor([50, STOP])])
    for weight in (0.0, 1.0):
        summary = dpo_trainer(tmp_path / str(weight), rows=rows, num_epochs=4, sft_weight=weight).train()
        ends[weight] = summary["chosen_logprobs"]
    assert ends[1.0] > ends[0.0] + 1.0


# ---- what is refused ----


def test_data_that_does_not_fit_the_loss(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unpaired=True"):
        dpo_trainer(tmp_path, rows=Pairs(), loss="kto")
    with pytest.raises(UsageError, match="reads pairs"):
        dpo_trainer(tmp_path, rows=Pairs(sides=1))
    with pytest.raises(UsageError, match="PreferenceDataset"):
        rows = [{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([-100, 2])}]
        trainer = dpo_trainer(tmp_path)
        type(trainer)(small_model(), None, trainer.tokenizer, rows, None, trainer.config)


def test_the_reference_is_named(tmp_path: Path) -> None:
    facts = dpo_trainer(tmp_path, trained_adapter()).facts()
    assert "starting adapter, loaded a second time and frozen" in facts["reference"]
    assert facts["loss"] == "sigmoid, beta 0.1, sft_weight 0, dropout off"


def test_answers_of_one_kind_teach_kto_nothing(tmp_path: Path) -> None:
    class AllGood(Pairs):
        def group(self, index: int) -> Group:
            return super().group(index)._replace(scores=[1.0])

    with pytest.raises(UserError, match="all 22 answers are labelled good: give rows of both kinds"):
        dpo_trainer(tmp_path, rows=AllGood(sides=1), loss="kto")
