"""Rollouts: what is written is what is trained, token for token, whatever it shares a batch or a pass with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.rollouts.minibatches import at_responses, units_of
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.rollouts.writing import join, load_rollout, save_rollout, take, write
from auto_bot_tuner.utils.errors import UsageError, UserError
from tests.models import tiny_model
from tests.rl_runs import (
    WORDS,
    first_rollout,
    grpo_trainer,
    imitation_rows,
    letter_model,
    letter_prompts,
    ppo_trainer,
    run_logged,
    snapshot,
)

END = WORDS["<end>"]
FAMILY = ("grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A GRPO trainer with a rollout of 16 prompts x 4 responses, written at temperature 0.8."""
    trainer = grpo_trainer(tmp_path_factory.mktemp("run"), batch_size=16, temperature=0.8)
    first_rollout(trainer)
    return trainer


def logprobs_by_hand(model: Any, attempt: Any, temperature: float) -> torch.Tensor:
    """log softmax(logits / T) of each response token, from one plain pass over this sequence alone."""
    prompt, response = attempt.prompt_ids, attempt.response_ids
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0] / temperature
    return torch.stack([logits[len(prompt) + t - 1].log_softmax(-1)[token] for t, token in enumerate(response)])


def gradient_of_a_step(trainer: Any) -> dict[str, torch.Tensor]:
    """What the optimiser would be given: of a rollout whose old log-probabilities are off, so that ratios are not 1."""
    noise = torch.Generator().manual_seed(0)
    rollout = trainer.rollout or first_rollout(trainer)
    rollout.logprobs = rollout.logprobs + 0.3 * torch.randn(rollout.logprobs.shape, generator=noise) * rollout.mask
    if rollout.values is not None:
        rollout.values = rollout.values + torch.randn(rollout.values.shape, generator=noise) * rollout.mask
    trainer.has_moved = True  # nothing is asked of a first step
    found: dict[str, torch.Tensor] = {}
    trainer.optimizer.step = lambda: found.update(
        {name: p.grad.clone() for name, p in trainer.trained_parameters().items()}
    )
    trainer.learn_from(trainer.minibatch(rollout, 0, 0))
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=tolerance), name
    assert any(tensor.abs().max() > 1e-3 for tensor in expected.values())  # there was something to compare


# ---- rules 23 and 24: written and trained under the same distribution ----


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_was_sampled_is_what_is_trained(tmp_path: Path, family: str, temperature: float) -> None:
    model = tiny_model(family, vocab_size=len(WORDS), bos_token_id=END, eos_token_id=END)
    trainer = ppo_trainer(tmp_path, policy=model, temperature=temperature)
    rollout = first_rollout(trainer)
    for attempt, written in zip(rollout.attempts, rollout.logprobs, strict=True):
        expected = logprobs_by_hand(model, attempt, temperature)
        assert torch.allclose(written[: len(expected)], expected, atol=1e-5)
    batch = trainer.collate_rollout(rollout, range(len(rollout.rows)))
    trained, *_ = trainer.module(*(batch[name] for name in ("input_ids", "labels", "lengths", "shared")))
    trained = at_responses(trained, batch["labels"], rollout.responses.shape[1])
    assert torch.allclose(trained, rollout.logprobs, atol=1e-4)


@pytest.mark.parametrize("old_logprobs", ["sampling", "training"])
@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_at_the_first_update_policy_and_old_policy_are_one(tmp_path: Path, make: Any, old_logprobs: str) -> None:
    make(tmp_path, temperature=0.7, minibatches=1, epochs_per_rollout=2, max_steps=2, old_logprobs=old_logprobs).train()
    first, second = run_logged(tmp_path)
    assert first["clip_fraction"] == 0 and first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["ratio_gap"] < 1e-5 and abs(first["approx_kl"]) < 1e-8
    assert ("sampling_gap" in first) == (old_logprobs == "training")
    assert first.get("sampling_gap", 0) < 1e-5  # float32: both ways agree
    assert first.get("kl", 0) == pytest.approx(0, abs=1e-4)  # PPO's reference is the policy as it starts
    assert second["ratio_gap"] > 1e-3  # it has moved


def test_dropout_in_the_adapter_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    policy = get_peft_model(letter_model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1))
    with pytest.raises(UsageError, match="lora_dropout"):
        ppo_trainer(tmp_path, policy=policy)


@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_a_first_ratio_that_is_not_1_stops_the_run(tmp_path: Path, make: Any) -> None:
    trainer = make(tmp_path, temperature=0.7)
    module = getattr(trainer.module, "policy", trainer.module)
    module.temperature = 1.0  # the temperature forgotten in training
    before = snapshot(trainer.model)
    with pytest.raises(UserError, match="their ratio is off by") as error:
        trainer.train()
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_the_first_ratio_is_looked_at_also_after_steps_that_were_skipped(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, temperature=0.7)
    trainer.module.temperature = 1.0
    trainer.update([])
    with pytest.raises(UserError, match="their ratio is off by"):
        trainer.update(trainer.minibatch(first_rollout(trainer), 0, 0))


# ---- rule 25: where a response ends, and what it is given ----


def test_a_response_ends_at_its_first_stop_token_which_is_trained(trainer: Any) -> None:
    rollout = trainer.rollout
    assert 0 < rollout.ended.sum() < len(rollout.ended)  # both kinds are here
    for attempt, mask, ids, ended in zip(
        rollout.attempts, rollout.mask, rollout.responses, rollout.ended.tolist(), strict=True
    ):
        length = int(mask.sum())
        assert mask.tolist() == [True] * length + [False] * (len(mask) - length)
        assert attempt.response_ids == ids[:length].tolist() and not ids[length:].any()
        assert END not in attempt.response_ids[:-1]
        assert ended == attempt.ended == (attempt.response_ids[-1] == END)
        assert ended or length == trainer.config.max_new_tokens
        assert "<end>" not in attempt.response and len(attempt.response) == length - ended
    batch = trainer.collate_rollout(rollout, [0, 1, 2])
    assert batch["mask"].sum() == (batch["labels"] != -100).sum() == rollout.lengths[:12].sum()


def test_a_stop_token_that_is_an_ordinary_one_is_no_part_of_the_text(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path)
    trainer.train_dataset.stop_token_ids = (END, WORDS["z"])  # as a template's own end of a turn may be
    rollout = first_rollout(trainer)
    assert any(attempt.response_ids[-1] == WORDS["z"] for attempt in rollout.attempts)
    for attempt in rollout.attempts:
        assert "z" not in attempt.response and attempt.ended == (attempt.response_ids[-1] in (END, WORDS["z"]))


def test_the_score_lands_on_the_last_real_token(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, batch_size=8, kl_coefficient=0.0)
    rollout = first_rollout(trainer)
    assert len(set(rollout.lengths.tolist())) > 3
    for rewards, score, length in zip(rollout.rewards, rollout.scores, rollout.lengths.tolist(), strict=True):
        assert rewards[length - 1] == score
        assert rewards.count_nonzero() == (score != 0)


@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_a_response_that_does_not_end_pays_for_it(tmp_path: Path, make: Any) -> None:
    rollout = first_rollout(make(tmp_path, batch_size=8, missing_eos_penalty=2.5))
    assert torch.equal(rollout.scores, rollout.raw_scores - torch.where(rollout.ended, 0.0, 2.5))
    assert 0 < rollout.ended.sum() < len(rollout.ended)


@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_scores_are_clipped_before_the_penalty(tmp_path: Path, make: Any) -> None:
    trainer = make(tmp_path, batch_size=8, reward_clip=0.5, missing_eos_penalty=1.0)
    rollout = first_rollout(trainer)
    rollout.raw_scores = torch.linspace(-2, 2, len(rollout.rows))
    expected = [
        min(max(s, -0.5), 0.5) - (not e) for s, e in zip(rollout.raw_scores.tolist(), rollout.ended, strict=True)
    ]
    assert trainer.usable_scores(rollout).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_unfinished_responses_can_be_left_out_of_the_loss(tmp_path: Path, make: Any) -> None:
    trainer = make(tmp_path, batch_size=8, mask_unfinished=True, minibatches=1)
    rollout = first_rollout(trainer)
    [batch] = trainer.minibatch(rollout, 0, 0)
    places = {(attempt.prompt_ids + attempt.response_ids).__repr__(): i for i, attempt in enumerate(rollout.attempts)}
    for row, mask, length in zip(batch["input_ids"], batch["mask"], batch["lengths"], strict=True):
        i = places[row[:length].tolist().__repr__()]
        assert mask.sum() == (rollout.lengths[i] if rollout.ended[i] else 0)
    ended = rollout.ended.view(-1, rollout.samples)
    assert batch.weight == (rollout.lengths[rollout.ended].sum() if rollout.samples == 1 else ended.sum())
    # A prompt none of whose responses ended is not computed at all.
    assert len(batch["input_ids"]) == ended.any(dim=1).sum() * rollout.samples


@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_a_step_whose_responses_are_all_left_out_is_skipped(tmp_path: Path, make: Any) -> None:
    trainer = make(tmp_path, mask_unfinished=True, max_new_tokens=1, max_steps=1, batch_size=1, seed=1)
    before = snapshot(trainer.model)
    summary = trainer.train()
    assert not trainer.rollout.ended.any()  # else another seed is needed
    assert trainer.state.skipped == summary["skipped_steps"] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


# ---- the noise of a response is its own ----


def test_a_prompt_is_answered_alike_whatever_it_shares_a_batch_with(trainer: Any) -> None:
    model, dataset = trainer.model, trainer.train_dataset

    def responses(rows: list[int], number: int = 3, samples: int = 3, **settings: Any) -> dict[Any, list[int]]:
        config = type(trainer.config)(**{"temperature": 0.8, "max_new_tokens": 12, **settings})
        rollout = write(model, dataset, rows, samples, config, number)
        return {
            (row, i % samples): a.response_ids
            for i, (row, a) in enumerate(zip(rollout.rows, rollout.attempts, strict=True))
        }

    together = responses([0, 1, 2, 3, 4, 5])
    assert responses([4, 1]) == {key: value for key, value in together.items() if key[0] in (4, 1)}
    assert responses([5, 4, 3, 2, 1, 0], rollout_batch_tokens=30) == together  # one prompt at a time
    assert responses([2], samples=2) == {(2, k): together[2, k] for k in range(2)}
    assert len({tuple(together[2, k]) for k in range(3)}) == 3  # the samples of one prompt differ
    assert responses([0, 1, 2, 3, 4, 5], number=4) != together
    assert responses([0, 1, 2, 3, 4, 5], seed=1) != together


def test_each_epoch_answers_every_prompt_once_in_another_order(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, prompt_dataset=letter_prompts(11), num_epochs=2, max_new_tokens=2)
    rollouts = [trainer.make_rollout(number).rows for number in range(4)]
    assert [len(rows) for rows in rollouts] == [8, 3, 8, 3]  # the last, smaller one of an epoch is written too
    first, second = rollouts[0] + rollouts[1], rollouts[2] + rollouts[3]
    assert sorted(first) == sorted(second) == list(range(11)) and first != second
    assert trainer.total_steps == 16


# ---- from a rollout to a gradient ----


def test_collating_and_reading_at_the_responses_are_inverse(trainer: Any) -> None:
    rollout, groups = trainer.rollout, [5, 0, 9]
    rows = [group * 4 + k for group in groups for k in range(4)]
    batch = trainer.collate_rollout(rollout, groups)
    width = int(rollout.lengths[rows].max())
    assert torch.equal(at_responses(batch["input_ids"], batch["labels"], width), rollout.responses[rows, :width])
    assert torch.equal(batch["advantages"], rollout.advantages[rows, :width])
    assert torch.equal(batch["old_logprobs"], rollout.logprobs[rows, :width])
    for row, ids, length in zip(rows, batch["input_ids"], batch["lengths"], strict=True):
        attempt = rollout.attempts[row]
        assert ids[:length].tolist() == attempt.prompt_ids + attempt.response_ids
    assert batch.rows == [rollout.rows[row] for row in rows]


def test_reading_at_the_responses_carries_the_gradient_back() -> None:
    labels = torch.tensor([[-100, -100, 5, 6, -100], [-100, 7, 8, 9, 4]])
    values = torch.arange(10.0).view(2, 5).requires_grad_()
    found = at_responses(values, labels, 4)
    assert found.tolist() == [[2, 3, 0, 0], [6, 7, 8, 9]]
    (found * torch.arange(8.0).view(2, 4)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0, 0, 0, 1, 0], [0, 4, 5, 6, 7]]


@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_what_stands_under_padding_changes_nothing(tmp_path: Path, make: Any) -> None:
    trainer = make(tmp_path, batch_size=8)
    rollout = first_rollout(trainer)
    losses, gradients = [], []
    for garbage in (False, True):
        batch = trainer.collate_rollout(rollout, range(8))
        assert not batch["mask"].all()
        if garbage:
            real = torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]
            batch["input_ids"][~real] = 13
            for name in {"old_logprobs", "advantages", "values", "returns"} & batch.tensors.keys():
                batch[name][~batch["mask"]] = 37.0
        trainer.module.zero_grad()
        loss, metrics = trainer.compute_loss(batch)
        loss.backward()
        losses.append({"loss": loss.item()} | {name: value.item() for name, value in metrics.items()})
        gradients.append({name: p.grad.clone() for name, p in trainer.trained_parameters().items()})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert_same(gradients[1], gradients[0], 1e-6)


def test_longer_batch_mates_change_no_reward_and_no_advantage(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, batch_size=8, whiten_advantages=False, lora=True)
    rollout = first_rollout(trainer)
    short = [i for i in range(len(rollout.rows)) if rollout.lengths[i] < 12][:3]
    alone = take(rollout, short)
    width = int(alone.lengths.max())
    for name in ("responses", "mask", "logprobs", "reference_logprobs", "values"):
        setattr(alone, name, getattr(alone, name)[:, :width])
    trainer.judge(alone)
    for name in ("logprobs", "values"):
        getattr(rollout, name)[~rollout.mask] = 37.0
    trainer.judge(rollout)
    for name in ("rewards", "advantages", "returns"):
        assert torch.equal(getattr(rollout, name)[short, :width], getattr(alone, name)), name
        assert not getattr(rollout, name)[~rollout.mask].any()


CUTS: dict[str, Any] = {
    "ppo": (ppo_trainer, {}),
    "ppo with an entropy bonus": (ppo_trainer, {"entropy_coefficient": 0.1, "mask_unfinished": True}),
    "ppo beside sft": (ppo_trainer, {"imitated": imitation_rows()}),
    **{loss: (grpo_trainer, {"loss": loss}) for loss in FAMILY},
    "grpo with a reference": (grpo_trainer, {"beta": 0.3, "mask_unfinished": True}),
}


@pytest.mark.parametrize("name", CUTS)
def test_cutting_a_step_into_more_passes_changes_no_gradient(tmp_path: Path, name: str) -> None:
    make, settings = CUTS[name]
    settings = {"max_grad_norm": 0.0, "batch_size": 8, "minibatches": 1, "epochs_per_rollout": 1, **settings}
    gradients = []
    for budget in (50, 5000):
        trainer = make(tmp_path, micro_batch_tokens=budget, **settings)
        gradients.append(gradient_of_a_step(trainer))
        passes = len(trainer.minibatch(trainer.rollout, 0, 0))
        assert passes >= 3 if budget == 50 else passes == 1
    assert_same(gradients[0], gradients[1], 1e-6)


def test_a_prompt_computed_once_for_its_responses_equals_one_for_each(tmp_path: Path) -> None:
    gradients = []
    for attention in ("sdpa", "eager"):
        trainer = grpo_trainer(tmp_path, policy=letter_model(attn_implementation=attention), max_grad_norm=0.0)
        assert trainer.is_flat == (attention == "sdpa")
        gradients.append(gradient_of_a_step(trainer))
    assert_same(gradients[0], gradients[1], 2e-6)


# ---- joined, taken, stored ----


def assert_same_rollout(one: Rollout, other: Rollout, tolerance: float = 0.0) -> None:
    assert (one.rows, one.samples, one.attempts) == (other.rows, other.samples, other.attempts)
    assert one.components.keys() == other.components.keys()
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert torch.allclose(value.float(), getattr(other, name).float(), rtol=0, atol=tolerance), name
        elif value is None:
            assert getattr(other, name) is None, name


def test_shares_joined_and_put_in_order_are_the_whole(trainer: Any) -> None:
    def written(rows: list[int]) -> Rollout:
        return write(trainer.model, trainer.train_dataset, rows, 2, trainer.config, 1)

    whole, first, second = written([0, 1, 2, 3, 4]), written([0, 2, 4]), written([1, 3])
    assert_same_rollout(take(join([first, second]), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5]), whole, tolerance=1e-5)
    short = take(whole, [0])  # of one row and few columns
    short.responses, short.mask, short.logprobs = (x[:, :2] for x in (short.responses, short.mask, short.logprobs))
    joined = join([short, second])
    assert joined.responses.shape == joined.mask.shape == joined.logprobs.shape == (5, second.responses.shape[1])
    assert joined.responses[0].count_nonzero() == joined.mask[0].sum() == 2


@pytest.mark.parametrize("make", [ppo_trainer, grpo_trainer])
def test_a_stored_rollout_is_the_same_to_the_bit(tmp_path: Path, make: Any) -> None:
    trainer = make(tmp_path, reward_clip=0.5) if make is ppo_trainer else make(tmp_path, beta=0.1)
    rollout = first_rollout(trainer)
    save_rollout(rollout, tmp_path)
    stored = load_rollout(tmp_path, trainer.train_dataset)
    assert stored is not None and rollout.reference_logprobs is not None
    assert_same_rollout(stored, rollout)
    assert load_rollout(tmp_path / "elsewhere", trainer.train_dataset) is None


def test_a_prompt_that_leaves_no_room_is_said_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no room for 12 more.*--max-length 4 --max-new-tokens 4"):
        grpo_trainer(tmp_path, policy=letter_model(max_position_embeddings=8)).train()


def test_more_minibatches_than_prompts_are_refused_before_the_run(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, minibatches=1000)
    with pytest.raises(UsageError, match=rf"--minibatches {len(trainer.train_dataset)}$"):
        trainer.train()
    grpo_trainer(tmp_path, minibatches=len(trainer.train_dataset)).check_data()


@pytest.mark.parametrize("is_flat", [True, False])
def test_the_token_budget_bounds_every_forward_pass(tmp_path: Path, is_flat: bool) -> None:
    """A group that is larger than the budget is divided; a response that is larger goes alone."""
    trainer = grpo_trainer(tmp_path)
    rollout = first_rollout(trainer)
    budget, groups = 40, range(len(rollout.rows) // rollout.samples)
    units, costs = units_of(rollout, groups, is_flat, budget)
    assert [row for unit in units for row in unit] == list(range(len(rollout.rows)))
    assert any(len(unit) < rollout.samples for unit in units) and any(len(unit) > 1 for unit in units) == is_flat
    for unit, cost in zip(units, costs, strict=True):
        attempts = [rollout.attempts[row] for row in unit]
        assert len({tuple(attempt.prompt_ids) for attempt in attempts}) == 1
        assert cost == len(attempts[0].prompt_ids) + sum(len(attempt.response_ids) for attempt in attempts)
        assert cost <= budget or len(unit) == 1
