"""GRPO's trainer: every member of the family learns from groups, and only from groups that differ."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.utils.errors import UserError
from tests.rl_runs import (
    early_letters,
    first_rollout,
    grpo_trainer,
    letter_model,
    letter_prompts,
    letter_reward_model,
    moved,
    run_logged,
    snapshot,
)

FAMILY = ("grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce")


def nothing(prompt: str, response: str) -> float:
    return 0.0


def by_prompt(prompt: str, response: str) -> float:
    """The same for all responses to a prompt, another one for each prompt."""
    return float(sum(map(ord, prompt)) % 7)


# ---- it learns ----


@pytest.mark.parametrize("loss", FAMILY)
def test_every_member_raises_a_known_reward(tmp_path: Path, loss: str) -> None:
    # Where a step is the mean over responses of sums over tokens, Adam sees no difference: all take the same rate.
    grpo_trainer(tmp_path, loss=loss, num_epochs=2, batch_size=8, group_size=8, learning_rate=1.5e-2).train()
    rewards = [line["reward"] for line in run_logged(tmp_path)]
    assert rewards[0] < 0.6 and rewards[-1] > rewards[0] + 0.1


def test_grpo_learns_it_all(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, num_epochs=5, batch_size=8, group_size=8, eval_dataset=letter_prompts(16, 9))
    trainer.train()
    lines = run_logged(tmp_path)
    assert lines[0]["eval_reward"] < 0.6 and lines[-1]["eval_reward"] > 0.85


def test_several_steps_on_one_rollout_clip_and_still_learn(tmp_path: Path) -> None:
    settings = {"epochs_per_rollout": 3, "minibatches": 2, "batch_size": 4, "group_size": 8, "num_epochs": 3}
    grpo_trainer(tmp_path, **settings).train()
    lines = run_logged(tmp_path)
    assert lines[0]["clip_fraction"] == 0 < max(line["clip_fraction"] for line in lines)
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert len(rewards) == 6 and statistics.mean(rewards[-2:]) > rewards[0] + 0.1


# ---- the loss, written out ----


def test_the_gradient_of_a_first_step_is_that_of_the_advantages_written_out(tmp_path: Path) -> None:
    """-A log pi of each token, a mean over a response, a mean over responses: by plain passes of the bare model."""
    trainer = grpo_trainer(tmp_path, batch_size=8, temperature=0.7, max_grad_norm=0.0, missing_eos_penalty=0.3)
    rollout = first_rollout(trainer)
    found: dict[str, torch.Tensor] = {}
    trainer.has_moved = True
    trainer.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters()})
    trainer.learn_from(trainer.minibatch(rollout, 0, 0))

    model, loss = letter_model(), torch.zeros(())
    scores = [early_letters("", attempt.response) - 0.3 * (not attempt.ended) for attempt in rollout.attempts]
    for i, attempt in enumerate(rollout.attempts):
        group = scores[i // 4 * 4 : i // 4 * 4 + 4]
        advantage = (scores[i] - statistics.mean(group)) / (statistics.stdev(group) + 1e-4)
        prompt, response = attempt.prompt_ids, attempt.response_ids
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.7
        logprobs = logits.log_softmax(-1)[range(len(response)), response]
        loss = loss - advantage * logprobs.mean() / len(scores)
    loss.backward()
    for name, p in model.named_parameters():
        assert torch.allclose(found[name], p.grad, atol=2e-6), name  # type: ignore[arg-type]
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-2


# ---- groups without spread ----


@pytest.mark.parametrize("loss", FAMILY)
def test_an_update_in_which_no_group_differs_is_skipped_and_counted(tmp_path: Path, loss: str) -> None:
    settings = {"beta": 0.1} if loss != "reinforce" else {}
    trainer = grpo_trainer(tmp_path, reward=nothing, loss=loss, max_steps=3, **settings)
    before = snapshot(trainer.model)
    summary = trainer.train()
    assert summary["skipped_steps"] == trainer.state.skipped == 3
    assert not moved(before, trainer.model)
    assert all("loss" not in line and line["groups_without_spread"] == 1 for line in run_logged(tmp_path))


@pytest.mark.parametrize("epochs", [1, 2])
def test_of_one_rollout_the_steps_whose_groups_do_not_differ_are_skipped(tmp_path: Path, epochs: int) -> None:
    """One prompt of four is rewarded, and each step takes one: the others would have gradients of exactly 0."""
    prompts = letter_prompts(4)
    chosen = prompts.conversation(2)[-1]["content"]

    def of_one(prompt: str, response: str) -> float:
        return early_letters(prompt, response) if prompt == chosen else 0.0

    settings = {"batch_size": 1, "minibatches": 4, "epochs_per_rollout": epochs, "prompt_dataset": prompts}
    trainer = grpo_trainer(tmp_path, reward=of_one, **settings)
    before = snapshot(trainer.model)
    assert trainer.train()["skipped_steps"] == 3 * epochs
    assert moved(before, trainer.model)
    assert sum("loss" in line for line in run_logged(tmp_path)) == epochs


def test_reinforce_learns_from_prompts_that_differ(tmp_path: Path) -> None:
    for loss, skipped in (("reinforce", 0), ("rloo", 1)):
        trainer = grpo_trainer(tmp_path / loss, reward=by_prompt, loss=loss, max_steps=1)
        before = snapshot(trainer.model)
        assert trainer.train()["skipped_steps"] == skipped
        assert bool(moved(before, trainer.model)) == (loss == "reinforce")


@pytest.mark.parametrize(
    ("loss", "drop", "left"), [("dapo", None, 1), ("grpo", None, 4), ("grpo", True, 1), ("dapo", False, 4)]
)
def test_flat_groups_are_left_out_where_the_loss_or_the_setting_says_so(
    tmp_path: Path, loss: str, drop: bool | None, left: int
) -> None:
    trainer = grpo_trainer(tmp_path, loss=loss, drop_equal_groups=drop)
    rollout = first_rollout(trainer)
    rollout.raw_scores = torch.zeros(16)
    rollout.raw_scores[6] = 1.0  # of the second prompt
    trainer.judge(rollout)
    [batch] = trainer.minibatch(rollout, 0, 0)
    assert len(set(batch.rows)) == left and rollout.rows[6] in batch.rows
    tokens = int(rollout.lengths[4:8].sum()) if left == 1 else int(rollout.lengths.sum())
    assert batch.weight == (tokens if loss == "dapo" else 4 * left)


def test_a_reward_that_never_comes_is_said_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = grpo_trainer(tmp_path, reward=nothing, num_epochs=4, logging_steps=1)
    trainer.train()
    said = " ".join(text for verdict in [capsys.readouterr()] for text in (verdict.out, verdict.err))
    assert trainer.state.skipped == 16
    assert {"no_reward", "no_spread"} & trainer.health.quiet.keys()
    assert "reward" in said and "0" in said


def test_an_evaluation_leaves_the_figures_of_training_alone(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, precision="bf16", eval_dataset=letter_prompts(4, 9))
    trainer.window = {"sampling_gap": [7.0]}
    assert 0 < trainer.evaluate()["eval_sampling_gap"] < 0.1
    assert trainer.window == {"sampling_gap": [7.0]}


# ---- the reference ----


def test_without_a_kl_term_there_is_no_reference_and_with_one_it_stands_still(tmp_path: Path) -> None:
    assert grpo_trainer(tmp_path).reference is None
    trainer = grpo_trainer(tmp_path, beta=0.05, num_epochs=1, learning_rate=3e-2)
    assert trainer.reference_kind == "copy" and trainer.reference is not None
    before = snapshot(trainer.reference.module)
    trainer.train()
    assert not moved(before, trainer.reference.module)
    first, *_, last = run_logged(tmp_path)
    assert first["kl_loss"] == pytest.approx(0, abs=1e-6) and first["kl_k3"] == pytest.approx(0, abs=1e-6)
    assert last["kl_loss"] > 1e-4 and last["kl_k3"] > 1e-3


def test_a_dear_divergence_holds_the_policy(tmp_path: Path) -> None:
    distances = {}
    for beta in (1e-6, 2.0):
        grpo_trainer(tmp_path / str(beta), beta=beta, num_epochs=3, batch_size=8).train()
        distances[beta] = run_logged(tmp_path / str(beta))[-1]["kl_k3"]
    assert distances[2.0] < distances[1e-6] / 2


@pytest.mark.parametrize("loss", ["rloo", "reinforce"])
def test_rloo_and_reinforce_pay_for_divergence_in_the_reward(tmp_path: Path, loss: str) -> None:
    trainer = grpo_trainer(tmp_path, loss=loss, beta=0.5, scale_by_std=False)
    rollout = first_rollout(trainer)
    noise = torch.Generator().manual_seed(1)
    rollout.reference_logprobs = rollout.logprobs - torch.rand(rollout.logprobs.shape, generator=noise) * rollout.mask
    trainer.judge(rollout)
    paid = rollout.scores - 0.5 * (rollout.logprobs - rollout.reference_logprobs).sum(dim=1)
    for i in range(16):
        others = [j for j in range(16) if j != i and (loss == "reinforce" or j // 4 == i // 4)]
        expected = paid[i] - paid[others].mean()
        assert torch.allclose(rollout.advantages[i][rollout.mask[i]], expected, atol=1e-5)
    _, metrics = trainer.compute_loss(trainer.collate_rollout(rollout, [0, 1, 2, 3]))
    assert "kl_loss" not in metrics


def test_with_lora_only_the_adapter_moves(tmp_path: Path) -> None:
    policy = letter_model(lora=True)
    trainer = grpo_trainer(tmp_path, policy=policy, beta=0.01, num_epochs=1)
    assert trainer.reference_kind == "adapter_off"
    before = snapshot(policy)
    trainer.train()
    assert moved(before, policy) == {name for name in before if "lora_" in name}
    assert run_logged(tmp_path)[-1]["kl_k3"] > 1e-5


# ---- settings and rewards ----


def test_responses_near_the_limit_pay_for_their_last_tokens(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, batch_size=16, overlong_buffer=4, reward_clip=0.4)
    rollout = first_rollout(trainer)
    expected = [
        min(score, 0.4) - {9: 0.25, 10: 0.5, 11: 0.75, 12: 1.0}.get(length, 0.0)
        for score, length in zip(rollout.raw_scores.tolist(), rollout.lengths.tolist(), strict=True)
    ]
    assert {9, 12} <= set(rollout.lengths.tolist()) and min(rollout.lengths) < 8
    assert rollout.scores.tolist() == pytest.approx(expected)


def test_a_reward_model_is_a_reward_and_stands_still(tmp_path: Path) -> None:
    reward_model = letter_reward_model()
    before = snapshot(reward_model)
    trainer = grpo_trainer(tmp_path, reward=[reward_model, early_letters], num_epochs=1)
    trainer.train()
    assert not moved(before, reward_model)
    for line in run_logged(tmp_path):
        assert line["reward"] == pytest.approx(line["reward_reward_model"] + line["reward_early_letters"], abs=1e-5)


def test_a_reward_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    def broken(prompt: str, response: str) -> float:
        return math.inf if len(response) > 5 else 0.0

    with pytest.raises(UserError, match="inf") as error:
        grpo_trainer(tmp_path, reward=broken).train()
    assert "\n" not in str(error.value)


def test_what_the_run_says_of_itself(tmp_path: Path) -> None:
    facts: dict[str, Any] = grpo_trainer(tmp_path, beta=0.1, minibatches=2).facts()
    assert facts["loss"] == "grpo, beta 0.1 (k3)"
    assert grpo_trainer(tmp_path, beta=0.1, loss="rloo").facts()["loss"] == "rloo, beta 0.1 (k1, in the reward)"
    assert facts["rollout"].startswith("8 prompts x 4 responses, up to 12 tokens, then 2 steps")
    assert facts["reward"] == "early_letters"


@pytest.mark.parametrize("setting", [{"clip_ratio": 0.1}, {"clip_ratio_high": 0.3}, {"kl_kind": "k2"}])
@pytest.mark.parametrize("loss", ["rloo", "reinforce"])
def test_what_a_loss_does_not_read_is_refused(tmp_path: Path, loss: str, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is not read by loss {loss}"):
        grpo_trainer(tmp_path, loss=loss, **setting)


# ---- one response to a prompt ----


def test_reinforce_learns_from_one_response_to_a_prompt(tmp_path: Path) -> None:
    """Compared with those to other prompts. An epoch's last prompt stands alone: nothing to compare, a skipped step."""
    settings = {"loss": "reinforce", "group_size": 1, "batch_size": 8, "prompt_dataset": letter_prompts(17)}
    trainer = grpo_trainer(tmp_path, **settings, num_epochs=7, learning_rate=1.5e-2)
    trainer.train()
    rewards = [line["reward"] for line in run_logged(tmp_path) if "reward" in line]
    assert statistics.mean(rewards[-5:]) > statistics.mean(rewards[:5]) + 0.1
    assert trainer.state.skipped >= 7


def test_reinforce_of_one_response_is_its_score_less_the_mean_of_the_others(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, loss="reinforce", group_size=1, batch_size=4)
    rollout = first_rollout(trainer)
    scores = [early_letters("", attempt.response) for attempt in rollout.attempts]
    expected = [score - (sum(scores) - score) / (len(scores) - 1) for score in scores]
    assert rollout.advantages is not None
    assert rollout.advantages[:, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_one_response_without_siblings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="group_size 1 leaves a response of loss dapo without siblings"):
        grpo_trainer(tmp_path, loss="dapo", group_size=1)
    with pytest.raises(UserError, match="none to compare it with"):
        grpo_trainer(tmp_path, loss="reinforce", group_size=1, batch_size=1).train()


# ---- what is shown ----


def test_the_group_that_is_shown_has_spread_and_stays_the_same(tmp_path: Path) -> None:
    prompts = letter_prompts(6)
    first, second = (prompts.conversation(row)[-1]["content"] for row in (0, 1))

    def but_for_the_first(prompt: str, response: str) -> float:
        return 0.0 if prompt == first else early_letters(prompt, response)

    trainer = grpo_trainer(tmp_path, reward=but_for_the_first, prompt_dataset=prompts, num_samples=3)
    views = trainer.token_views()
    assert trainer.shown_prompt == 1 and len(views) == 4
    assert all(second in view["prompt"] for view in views)
    assert any(value for view in views for value in view["series"]["advantage"])
    resumed = grpo_trainer(tmp_path, reward=nothing, prompt_dataset=prompts, num_samples=3)
    resumed.load_extra_state(trainer.extra_state())
    assert [view["tokens"] for view in resumed.token_views()] == [view["tokens"] for view in views]


def test_views_of_reinforce_hold_what_a_response_is_compared_with(tmp_path: Path) -> None:
    for group_size, shown in ((1, 3), (4, 4)):
        views = grpo_trainer(tmp_path, loss="reinforce", group_size=group_size, num_samples=3).token_views()
        assert len(views) == shown
        assert sum(view["series"]["advantage"][0] for view in views) == pytest.approx(0, abs=1e-3)
