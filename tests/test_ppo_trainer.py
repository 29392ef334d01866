"""PPO's trainer: four models, two of which learn; and each setting does what it says."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.rewards.verifiers import Verifier
from auto_bot_tuner.rewards.weighted_sum import WeightedSum
from auto_bot_tuner.rlhf import create_value_network_from_policy, create_value_network_from_reward_model
from auto_bot_tuner.sft import sft_loss
from auto_bot_tuner.utils.errors import UsageError, UserError
from tests.rl_runs import (
    early_letters,
    first_rollout,
    imitation_rows,
    letter_model,
    letter_prompts,
    letter_reward_model,
    letter_tokenizer,
    moved,
    ppo_trainer,
    run_logged,
    snapshot,
)


def rollouts_of(folder: Path) -> list[dict[str, Any]]:
    """The log lines that hold a new rollout's statistics: of every fourth step."""
    return [line for line in run_logged(folder) if "reward" in line]


# ---- the specification's pipeline ----


def test_the_four_models_as_the_specification_writes_them(tmp_path: Path) -> None:
    from src.auto_bot_tuner.dpo import create_reference_model
    from src.auto_bot_tuner.rlhf import (
        PPOConfig,
        PPOTrainer,
        PromptDataset,
        create_reward_model_from_pretrained,
        create_value_network_from_policy,
    )
    from src.auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    name = str(tmp_path / "model")
    letter_model().save_pretrained(name)
    letter_tokenizer().save_pretrained(name)

    policy_model, tokenizer, device = load_model_and_tokenizer(name)
    reference_model = create_reference_model(policy_model, device)
    reward_model = create_reward_model_from_pretrained(name, tokenizer)
    value_network = create_value_network_from_policy(policy_model)
    prompts = PromptDataset([{"prompt": "abc"}, {"prompt": "wxyz"}], tokenizer)
    config = PPOConfig(
        output_dir=str(tmp_path / "run"),
        batch_size=2,
        minibatches=1,
        epochs_per_rollout=2,
        max_new_tokens=8,
        report_to=(),
    )
    models = [policy_model, value_network, reward_model, reference_model]
    before = [snapshot(model) for model in models]
    trainer = PPOTrainer(
        policy_model, value_network, reward_model, reference_model, tokenizer, prompts, prompts, config
    )
    summary = trainer.train()

    policy_moved, value_moved, reward_moved, reference_moved = map(moved, before, models)
    assert summary["steps"] == 2 and {"eval_reward", "eval_kl", "loss"} <= summary.keys()
    assert {"reward", "kl", "loss", "explained_variance"} <= run_logged(tmp_path / "run")[1].keys()
    assert len(policy_moved) > 20 and {"head.weight", "head.bias"} < value_moved
    assert not reward_moved and not reference_moved
    assert trainer.reference_kind == "given"
    again, _, _ = load_model_and_tokenizer(summary["final"])
    assert not moved(snapshot(policy_model), again)


def test_the_same_reference_given_or_not_is_the_same_run(tmp_path: Path) -> None:
    from auto_bot_tuner.dpo import create_reference_model

    ppo_trainer(tmp_path / "none", num_epochs=1).train()
    policy = letter_model()
    ppo_trainer(tmp_path / "given", policy=policy, reference_model=create_reference_model(policy, "cpu")).train()
    assert run_logged(tmp_path / "none") == run_logged(tmp_path / "given")


def test_models_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    policy = letter_model()
    with pytest.raises(UsageError, match="would be trained along"):
        ppo_trainer(tmp_path, policy=policy, reference_model=policy)
    with pytest.raises(UsageError, match="give both, or none"):
        ppo_trainer(tmp_path, sft_weight=0.5)


# ---- the loss, written out ----


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_the_losses_written_out(tmp_path: Path, temperature: float) -> None:
    """Response by response, token by token, with plain forward passes of the bare models."""
    settings = {
        "batch_size": 8,
        "minibatches": 1,
        "entropy_coefficient": 0.05,
        "max_grad_norm": 0.0,
        "kl_coefficient": 0.0,
    }
    trainer = ppo_trainer(tmp_path, temperature=temperature, gae_lambda=1.0, **settings)
    rollout = first_rollout(trainer)
    assert rollout.scores is not None and rollout.values is not None
    rollout.logprobs += 0.4 * torch.sin(torch.arange(12.0)) * rollout.mask  # so that some ratios are clipped
    rollout.values += 0.4 * torch.cos(torch.arange(12.0)) * rollout.mask
    found: dict[str, torch.Tensor] = {}
    trainer.has_moved = True
    trainer.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in trainer.trained_parameters().items()})
    trainer.learn_from(trainer.minibatch(rollout, 0, 0))

    policy, network = letter_model(), create_value_network_from_policy(letter_model())
    tokens = [(i, t) for i, attempt in enumerate(rollout.attempts) for t in range(len(attempt.response_ids))]
    # lambda = gamma = 1 and values that were 0: the advantage of a token is its response's score.
    raw = torch.stack([rollout.scores[i] for i, _ in tokens])
    whitened = (raw - raw.mean()) / (raw.var(correction=0) + 1e-8).sqrt()
    loss = torch.zeros(())
    for (i, t), advantage in zip(tokens, whitened.tolist(), strict=True):
        attempt = rollout.attempts[i]
        before = torch.tensor([attempt.prompt_ids + attempt.response_ids[:t]])
        logprobs = (policy(input_ids=before).logits[0, -1] / temperature).log_softmax(-1)
        ratio = (logprobs[attempt.response_ids[t]] - rollout.logprobs[i, t]).exp()
        loss = loss + torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))
        loss = loss - 0.05 * -(logprobs.exp() * logprobs).sum()
        old, value = rollout.values[i, t], network(before)[0, -1]
        clipped = old + (value - old).clamp(-0.2, 0.2)
        loss = loss + 0.5 * torch.maximum((value - rollout.scores[i]) ** 2, (clipped - rollout.scores[i]) ** 2)
    (loss / len(tokens)).backward()
    expected = {name: p.grad for name, p in policy.named_parameters()}
    expected |= {f"value.{name}": p.grad for name, p in network.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        gradient = torch.zeros_like(found[name]) if gradient is None else gradient
        assert torch.allclose(found[name], gradient, atol=2e-6), name
    assert any(gradient.abs().max() > 1e-2 for gradient in found.values())


def test_imitation_adds_its_weight_times_the_mean_over_sft_tokens(tmp_path: Path) -> None:
    rows = imitation_rows(4)  # as many as a step has prompts: each step sees them all
    trainer = ppo_trainer(tmp_path, imitated=rows, sft_weight=0.7, max_steps=2, micro_batch_tokens=40)
    nll, count = 0.0, 0
    for row in rows:
        loss, metrics = sft_loss(trainer.model(input_ids=row["input_ids"][None]).logits, row["labels"][None])
        nll, count = nll + loss.item() * metrics["num_tokens"], count + int(metrics["num_tokens"])
    trainer.train()
    first, second = (line["sft_loss"] for line in run_logged(tmp_path) if "sft_loss" in line)
    assert first == pytest.approx(nll / count, abs=1e-5)
    assert second < first


# ---- it learns ----


def test_ppo_raises_a_known_reward(tmp_path: Path) -> None:
    prompts = {"prompt_dataset": letter_prompts(32), "batch_size": 16, "num_epochs": 9}
    ppo_trainer(tmp_path, **prompts, value_learning_rate=1e-2, kl_coefficient=0.01).train()
    rewards = [line["reward"] for line in rollouts_of(tmp_path)]
    assert statistics.mean(rewards[:1]) < 0.6  # by chance one half
    assert statistics.mean(rewards[-2:]) > 0.8


def test_a_dear_divergence_holds_the_policy(tmp_path: Path) -> None:
    distances = {}
    for coefficient in (0.0, 5.0):
        folder = tmp_path / str(coefficient)
        ppo_trainer(
            folder, kl_coefficient=coefficient, num_epochs=4, learning_rate=5e-3, eval_dataset=letter_prompts(16)
        ).train()
        distances[coefficient] = run_logged(folder)[-1]["eval_kl_k3"]
    assert distances[5.0] < distances[0.0] / 2


def test_the_value_network_learns_what_is_to_be_expected(tmp_path: Path) -> None:
    def by_first_letter(prompt: str, response: str) -> float:
        return 3.0 if prompt[0] <= "m" else 1.0

    rates = {"learning_rate": 1e-6, "value_learning_rate": 1e-2, "value_clip": 0.0}
    settings = {"batch_size": 16, "minibatches": 1, "epochs_per_rollout": 8, "max_new_tokens": 3, "num_epochs": 5}
    ppo_trainer(tmp_path, reward_model=by_first_letter, **rates, **settings).train()
    lines = rollouts_of(tmp_path)
    assert lines[0]["value"] == 0 and abs(lines[0]["explained_variance"]) < 1e-6
    assert lines[-1]["value"] == pytest.approx(lines[-1]["reward"], abs=0.3)
    assert lines[-1]["explained_variance"] > 0.5


# ---- who moves, and how fast ----


def test_the_value_network_has_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, value_learning_rate=3e-5, max_steps=1)
    policy, network = snapshot(trainer.model), snapshot(trainer.value_network)
    trainer.train()

    def furthest(before: dict[str, torch.Tensor], module: Any) -> float:
        return max(float((tensor - before[name]).abs().max()) for name, tensor in module.state_dict().items())

    # Adam's first step moves a weight by nearly the learning rate, whatever its gradient.
    assert furthest(policy, trainer.model) == pytest.approx(1e-2, rel=0.05)
    assert furthest(network, trainer.value_network) == pytest.approx(3e-5, rel=0.05)


def test_each_network_is_clipped_by_itself(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, max_grad_norm=0.5)
    of_policy = list(trainer.model.parameters())
    of_value = list(trainer.value_network.parameters())
    for p in of_policy + of_value:
        p.grad = torch.full_like(p, 3.0 if any(p is q for q in of_policy) else 1e-6)
    norm = 3.0 * math.sqrt(sum(p.numel() for p in of_policy))
    assert trainer.clip_gradients(of_policy + of_value) == pytest.approx(norm, rel=1e-5)
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in of_policy)) == pytest.approx(0.5, rel=1e-3)
    assert all(torch.equal(p.grad, torch.full_like(p, 1e-6)) for p in of_value)


def test_with_lora_the_adapters_move_and_the_base_is_the_reference(tmp_path: Path) -> None:
    policy = letter_model(lora=True)
    trainer = ppo_trainer(tmp_path, policy=policy, num_epochs=1)
    assert trainer.reference_kind == "adapter_off"
    before, value_before = snapshot(policy), snapshot(trainer.value_network)
    trainer.train()
    assert {name for name in before if "lora_" in name} == moved(before, policy)
    of_value = moved(value_before, trainer.value_network)
    assert of_value == {name for name in value_before if "lora_" in name or name.startswith("head.")}
    frozen = {id(p) for p in policy.parameters() if not p.requires_grad}
    shared = [p for p in trainer.value_network.parameters() if not p.requires_grad]
    assert shared and all(id(p) in frozen for p in shared)  # one base for both
    rollout, base = trainer.rollout, letter_model()
    assert rollout is not None and rollout.reference_logprobs is not None
    for attempt, logprobs in zip(rollout.attempts, rollout.reference_logprobs, strict=True):
        start, ids = len(attempt.prompt_ids), attempt.prompt_ids + attempt.response_ids
        expected = base(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = expected[range(start - 1, len(ids) - 1), attempt.response_ids]
        assert torch.allclose(logprobs[: len(expected)], expected, atol=1e-5)
    assert run_logged(tmp_path)[-1]["step"] == 8 and abs(rollouts_of(tmp_path)[-1]["kl"]) > 1e-3


def test_a_value_network_may_start_from_the_reward_model(tmp_path: Path) -> None:
    reward_model = letter_reward_model()
    trainer = ppo_trainer(
        tmp_path,
        reward_model=reward_model,
        value_network=create_value_network_from_reward_model(reward_model),
        max_steps=4,
    )
    before = snapshot(reward_model)
    trainer.train()
    assert not moved(before, reward_model)
    rollout = trainer.rollout
    assert rollout is not None and rollout.raw_scores is not None
    for attempt, score in zip(rollout.attempts, rollout.raw_scores.tolist(), strict=True):
        assert reward_model(torch.tensor([attempt.prompt_ids + attempt.response_ids])) == pytest.approx(score, abs=1e-5)


# ---- settings ----


def test_the_price_of_divergence_moves_towards_its_target(tmp_path: Path) -> None:
    ppo_trainer(tmp_path, kl_target=50.0, kl_coefficient=0.1, kl_horizon=100, num_epochs=2).train()
    # 8 responses a rollout, all of them nearer than the target: e = -0.2 each time.
    assert [line["kl_coefficient"] for line in rollouts_of(tmp_path)] == pytest.approx(
        [0.1 * (1 - 0.2 * 8 / 100) ** rollout for rollout in range(4)]
    )
    ppo_trainer(tmp_path / "far", kl_target=1e-6, kl_coefficient=0.1, kl_horizon=100, num_epochs=2).train()
    prices = [line["kl_coefficient"] for line in rollouts_of(tmp_path / "far")]
    assert prices[2] > prices[1] * 1.01 and prices[3] > prices[2] * 1.01


def test_the_shaped_reward_is_the_score_less_the_price_of_its_divergence(tmp_path: Path) -> None:
    ppo_trainer(tmp_path, kl_coefficient=0.3, missing_eos_penalty=0.5, num_epochs=1).train()
    first, second = rollouts_of(tmp_path)
    assert first["reward_shaped"] == pytest.approx(first["reward"] - 0.5 * (1 - first["eos_rate"]), abs=1e-4)
    assert abs(second["kl"]) > 1e-2
    expected = second["reward"] - 0.5 * (1 - second["eos_rate"]) - 0.3 * second["kl"]
    assert second["reward_shaped"] == pytest.approx(expected, abs=1e-5)


def test_early_stop_leaves_the_rest_of_a_rollout_and_counts_it(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, early_stop_kl=1e-12, num_epochs=1)
    summary = trainer.train()
    # At a rollout's first step the policy is the one that wrote it; the second sees that it moved, the others are left.
    assert summary["steps"] == 8 and summary["skipped_steps"] == 4
    assert ["loss" in line for line in run_logged(tmp_path)] == [True, True, False, False] * 2
    ppo_trainer(tmp_path / "never", num_epochs=1).train()
    assert run_logged(tmp_path / "never")[-1]["skipped_steps"] == 0


@pytest.mark.parametrize(
    "settings", [{}, {"old_logprobs": "training"}, {"precision": "bf16"}, {"whiten_advantages": False}]
)
def test_where_no_reward_comes_steps_are_skipped_and_counted(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A first KL is 0 but for rounding, which whitening would make as large as a lesson."""
    policy = letter_model(lora=True)
    before = snapshot(policy)
    summary = ppo_trainer(tmp_path, policy=policy, reward_model=lambda prompt, response: 0.0, **settings).train()
    assert summary["skipped_steps"] == summary["steps"] == 8
    assert not moved(before, policy)


def test_a_response_that_came_as_foreseen_counts_where_others_did_not(tmp_path: Path) -> None:
    """Whitened, a score of 0 is below the average: it is learnt from, also in a step that holds nothing else."""
    prompts = letter_prompts(4)
    chosen = prompts.conversation(2)[-1]["content"]
    settings = {"batch_size": 1, "minibatches": 4, "epochs_per_rollout": 1, "prompt_dataset": prompts}
    trainer = ppo_trainer(tmp_path, reward_model=lambda prompt, response: float(prompt == chosen), **settings)
    assert trainer.train()["skipped_steps"] == 0


def test_scaled_rewards_forget_the_scale_of_their_source(tmp_path: Path) -> None:
    def in_thousands(prompt: str, response: str) -> float:
        return 1000 * early_letters(prompt, response)

    ppo_trainer(tmp_path / "one", scale_rewards=True, num_epochs=1).train()
    ppo_trainer(tmp_path / "other", scale_rewards=True, num_epochs=1, reward_model=in_thousands).train()
    one, other = run_logged(tmp_path / "one"), run_logged(tmp_path / "other")
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other], abs=1e-3)
    assert other[0]["reward"] == pytest.approx(1000 * one[0]["reward"], rel=1e-5)  # logged as it came

    trainer = ppo_trainer(tmp_path, scale_rewards=True, missing_eos_penalty=1.0)
    first = first_rollout(trainer)
    second = trainer.make_rollout(1)
    seen = [*first.raw_scores.tolist(), *second.raw_scores.tolist()]
    for rollout, scale in ((first, statistics.pstdev(seen[:8])), (second, statistics.pstdev(seen))):
        expected = rollout.raw_scores / scale - torch.where(rollout.ended, 0.0, 1.0)  # the penalty is not scaled
        assert torch.allclose(rollout.scores, expected, atol=1e-5)


def test_whitening_is_over_the_tokens_that_are_trained(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, batch_size=8, mask_unfinished=True)
    rollout = first_rollout(trainer)
    trained = rollout.mask & rollout.ended[:, None]
    assert 0 < trained.sum() < rollout.mask.sum()
    assert rollout.advantages[trained].mean() == pytest.approx(0, abs=1e-6)
    assert rollout.advantages[trained].var(correction=0) == pytest.approx(1, abs=1e-4)
    plain = first_rollout(ppo_trainer(tmp_path, batch_size=8, whiten_advantages=False))
    assert torch.allclose(plain.returns, plain.advantages + plain.values)
    assert torch.allclose(rollout.returns, plain.returns)  # from advantages before whitening


def test_every_source_of_a_reward_is_logged_by_its_name(tmp_path: Path) -> None:
    sources = [
        (1.0, Verifier("early", lambda a: early_letters("", a.response))),
        (-0.5, Verifier("long", lambda a: len(a.response))),
    ]
    trainer = ppo_trainer(tmp_path, reward_model=WeightedSum(sources), num_epochs=1, eval_dataset=letter_prompts(5))
    trainer.train()
    for line in [*rollouts_of(tmp_path), {n[5:]: v for n, v in run_logged(tmp_path)[0].items()}]:
        assert line["reward"] == pytest.approx(line["reward_early"] - 0.5 * line["reward_long"], abs=1e-5)
        assert line["reward_long"] == pytest.approx(line["response_length"] - line["eos_rate"])


def test_a_reward_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    def broken(prompt: str, response: str) -> float:
        return math.nan

    with pytest.raises(UserError, match="nan") as error:
        ppo_trainer(tmp_path, reward_model=broken).train()
    assert "\n" not in str(error.value)


def test_a_gradient_that_is_no_number_stops_the_run_whichever_network_has_it(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path)
    trainer.value_network.head.weight.register_hook(lambda gradient: gradient * math.inf)
    before = snapshot(trainer.value_network)
    with pytest.raises(UserError, match="gradient norm is"):
        trainer.train()
    assert not moved(before, trainer.value_network)


# ---- what is seen and kept ----


def test_an_evaluation_draws_the_same_noise_each_time_and_shows_what_was_scored(tmp_path: Path) -> None:
    trainer = ppo_trainer(tmp_path, eval_dataset=letter_prompts(6, 9), num_samples=2)
    first = trainer.evaluate()
    assert trainer.evaluate() == first
    assert first["eval_kl"] == pytest.approx(0, abs=1e-4) and 0 <= first["eval_reward"] <= 1
    for sample, attempt in zip(trainer.samples(), trainer.evaluated.attempts, strict=False):
        assert sample["response"] == attempt.response
        assert sample["score"] == pytest.approx(early_letters("", attempt.response), abs=1e-3)
    assert len(trainer.samples()) == 2
    with pytest.raises(UserError, match="no evaluation data"):
        ppo_trainer(tmp_path).evaluate()


def test_keep_best_keeps_the_highest_reward(tmp_path: Path) -> None:
    """The reward is turned round: what was good becomes bad, so the first evaluation is the best one."""
    calls: list[int] = []

    def turning(prompt: str, response: str) -> float:
        calls.append(1)
        return 100.0 - len(calls)

    trainer = ppo_trainer(tmp_path, reward_model=turning, eval_dataset=letter_prompts(4), keep_best=True, max_steps=4)
    before = snapshot(trainer.model)
    trainer.train()
    assert trainer.state.best_step == 0
    assert not moved(before, trainer.model)


def test_a_checkpoint_holds_the_value_network_and_final_does_not(tmp_path: Path) -> None:
    ppo_trainer(tmp_path, save_steps=2, max_steps=4).train()
    held = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {"value_network.safetensors", "rollout.safetensors", "model.safetensors"} <= held
    assert not (tmp_path / "checkpoint-4" / "rollout.safetensors").exists()  # used up
    assert not {"value_network.safetensors", "rollout.safetensors"} & {p.name for p in (tmp_path / "final").iterdir()}
