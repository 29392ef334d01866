"""The dry run: bytes equal to real tensors', activations counted by hand, advice by arithmetic, no trace left."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import main
from auto_bot_tuner.estimation import dry_run as estimate
from auto_bot_tuner.estimation import memory as estimate_memory
from auto_bot_tuner.estimation.advice import Estimate, Workload, advice_in_words, fits
from auto_bot_tuner.estimation.dry_run import dry_run, largest_cut
from auto_bot_tuner.estimation.memory import Memory, SavedTensors, held
from auto_bot_tuner.estimation.time import Duration, evaluations_of
from auto_bot_tuner.estimation.words import in_lines
from tests.rl_runs import grpo_trainer, ppo_trainer
from tests.training_runs import logged, small_trainer

MIB = 2**20


# ---- memory ----


@pytest.mark.parametrize("lora", [False, True])
def test_weights_gradients_and_adam_are_those_of_a_real_step(tmp_path, lora):
    trainer = small_trainer(tmp_path / "run", lora=lora, max_steps=1)
    predicted = held(trainer)
    parameters = list(trainer.model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    size = {True: 0, False: 0}
    for p in parameters:
        size[p.requires_grad] += p.numel() * p.element_size()
    buffers = sum(b.numel() * b.element_size() for b in trainer.model.buffers())
    assert (predicted.trained, predicted.frozen) == (size[True], size[False] + buffers)

    batch = trainer.micro_batches(range(4))[0]
    loss, _ = trainer.compute_loss(batch)
    loss.backward()
    trainer.optimizer.step()
    assert predicted.gradients == sum(p.grad.untyped_storage().nbytes() for p in trained)
    state = trainer.optimizer.state
    assert predicted.optimizer == sum(t.untyped_storage().nbytes() for p in trained for t in state[p].values())


@pytest.mark.parametrize("rows", [3, 40])
def test_saved_tensors_of_a_small_network_are_those_counted_by_hand(rows):
    first, second = nn.Linear(10, 20), nn.Linear(20, 5)
    inputs = torch.randn(rows, 10)
    with SavedTensors([*first.parameters(), *second.parameters()]) as counting:
        (second(torch.relu(first(inputs))) ** 2).sum().backward()
    # The inputs (for the first matrix), relu's output (for itself and the second matrix: once), what is squared.
    assert counting.bytes == 4 * rows * (10 + 20 + 5) and counting.wide == 0


def test_logits_are_counted_apart():
    head, inputs = nn.Linear(10, 33, bias=False), torch.randn(7, 10)
    with SavedTensors(head.parameters(), vocabulary=33) as counting:
        nn.functional.log_softmax(head(inputs), dim=-1).sum().backward()
    assert counting.wide == 4 * 7 * 33 and counting.bytes == 4 * 7 * 10


def test_activations_grow_with_the_tokens_and_shrink_with_checkpointing(tmp_path):
    trainers = {tokens: small_trainer(tmp_path / "run", micro_batch_tokens=tokens) for tokens in (40, 320)}
    read = {tokens: sum(trainer.lengths[row] for row in largest_cut(trainer)) for tokens, trainer in trainers.items()}
    small, large = (dry_run(trainer).estimate.memory.activations for trainer in trainers.values())
    assert large / small == pytest.approx(read[320] / read[40], rel=0.25)
    less = dry_run(small_trainer(tmp_path / "run", micro_batch_tokens=320, gradient_checkpointing=True)).estimate
    assert less.memory.activations < 0.8 * large


def test_the_largest_micro_batch_is_found(tmp_path):
    trainer = small_trainer(tmp_path / "run", micro_batch_tokens=120)
    cut = largest_cut(trainer)
    tokens = len(cut) * max(trainer.lengths[row] for row in cut)
    seen = []
    while trainer.state.step < trainer.steps_per_epoch:
        seen += [batch["input_ids"].numel() for batch in next(trainer.batches())]
        trainer.state.step += 1
    assert tokens == max(seen)


# ---- nothing is left behind ----


def test_weights_random_numbers_and_counters_are_untouched(tmp_path):
    trainer = small_trainer(tmp_path / "run", lora=True, noisy=True)
    trainer.module.train()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    state, random = trainer.state.as_dict(), torch.get_rng_state()
    dry_run(trainer)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(p.grad is None for p in trainer.model.parameters())
    assert torch.equal(torch.get_rng_state(), random) and trainer.state.as_dict() == state
    assert trainer.module.training and not trainer.optimizer.state and not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["sft", "ppo", "grpo"])
def test_a_run_after_its_dry_run_is_the_run_without_one(tmp_path, method):
    def trainer(folder: Path) -> Any:
        if method == "sft":
            return small_trainer(folder, noisy=True, max_steps=4)
        adaptive = {"kl_target": 0.5, "kl_horizon": 16, "scale_rewards": True} if method == "ppo" else {}
        return (ppo_trainer if method == "ppo" else grpo_trainer)(folder, max_steps=4, **adaptive)

    trainer(tmp_path / "without").train()
    measured = trainer(tmp_path / "with")
    dry_run(measured)
    measured.train()
    timed = ("writing_tokens_per_second", "scoring_tokens_per_second")
    without, after = (
        [{name: value for name, value in line.items() if name not in timed} for line in logged(tmp_path / folder)]
        for folder in ("without", "with")
    )
    assert len(after) >= 4 and after == without


# ---- time ----


def test_a_duration_is_the_sum_of_its_parts():
    spent = Duration(step=2, steps=10, evaluation=3, evaluations=2, rollout=5, rollouts=4, before=1)
    assert spent.total == 20 + 6 + 20 + 1


@pytest.mark.parametrize(("steps", "every", "count"), [(10, 0, 2), (10, 5, 3), (10, 4, 4), (10, 10, 2), (1, 3, 2)])
def test_evaluations_are_counted_as_the_loop_makes_them(tmp_path, steps, every, count):
    trainer = small_trainer(tmp_path / "run", max_steps=steps, eval_steps=every)
    done = []
    trainer.callbacks = [lambda event: done.append(event.step) if event.name == "evaluate" else None]
    assert evaluations_of(trainer) == count
    trainer.train()
    assert len(done) == count


# ---- advice ----

FULL = Memory(trained=100, gradients=100, optimizer=200, activations=400, logits=50, program=20)
WORK = Workload(tokens=2048, least_tokens=256, kept_per_token=0, layers=10, adapter_bytes=1, longest=256)
TOTAL = 870


def of(memory: Memory = FULL, **work) -> Estimate:
    return Estimate(memory, replace(WORK, **work))


def just(total: int) -> int:
    """Memory of which `total` is allowed."""
    return int(total / 0.9) + 1


@pytest.mark.parametrize(
    ("limit", "flags", "after"),
    [
        (TOTAL, (), None),
        (TOTAL - 1, ("--micro-batch-tokens 1024",), 670),
        (669, ("--micro-batch-tokens 512",), 570),
        (520, ("--micro-batch-tokens 256",), 520),
        (519, ("--gradient-checkpointing",), 510),  # 400 / 10 layers
        (509, ("--micro-batch-tokens 256", "--gradient-checkpointing"), 475),
        (300, ("--micro-batch-tokens 256", "--gradient-checkpointing", "--lora"), 179),
    ],
)
def test_the_cheapest_change_that_is_enough(limit, flags, after):
    advice = fits(of(), just(limit))
    assert advice.fits == (not flags) and advice.flags == flags
    assert (advice.memory.total if advice.memory else None) == after
    assert len(advice.costs) == len(flags)


def test_a_frozen_base_in_fewer_bits_and_rollouts_written_fewer_at_a_time():
    lora = Memory(trained=1, frozen=800, gradients=1, optimizer=2, activations=100)
    assert fits(of(lora, is_adapted=True), just(600)).flags == ("--dtype bfloat16",)
    four = fits(of(lora, is_adapted=True, device="cuda"), just(300))
    assert four.flags == ("--load-in-4bit",) and four.memory.frozen == 112  # 4.5 bits of 32
    rollouts = replace(lora, writing=1000)
    work = {"is_adapted": True, "writing_tokens": 4000, "least_writing": 500}
    assert fits(of(rollouts, **work), just(1400)).flags == ("--rollout-batch-tokens 2000",)


def test_writing_training_and_saving_take_turns():
    assert replace(FULL, writing=500).total == TOTAL and replace(FULL, writing=600).total == TOTAL + 50
    assert replace(FULL, saving=500).total == TOTAL and replace(FULL, saving=600, writing=100).total == TOTAL + 50


def test_what_nothing_can_help_is_said():
    advice = fits(of(Memory(program=1000)), 500)
    assert not advice.fits and not advice.flags
    text = "\n".join(advice_in_words(advice, of(Memory(program=1000)), 500, "cpu"))
    assert "no setting makes it fit" in text and "smaller model" in text


# ---- the command ----

SHORT = ["--max-samples", "40", "--max-steps", "2", "--batch-size", "2", "--grad-accum", "2", "--dry-run"]
COMMANDS = {
    "train-sft": ["--dataset", "tiny-instructions"],
    "train-reward": ["--dataset", "tiny-preferences"],
    "train-dpo": ["--dataset", "tiny-preferences", "--reference", "precomputed"],
    "train-ppo": ["--dataset", "tiny-prompts", "--reward", "gold", "--max-new-tokens", "8"],
    "train-grpo": ["--dataset", "tiny-prompts", "--reward", "gold", "--max-new-tokens", "8"],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_method_says_what_it_would_take_and_leaves_nothing(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main([verb, "--model", "tiny", *COMMANDS[verb], *SHORT]) == 0
    out = capsys.readouterr().out
    for part in ("trained", "frozen", "gradients", "optimiser", "activations", "program"):
        assert re.search(rf"^  {part} +[\d.]+ [MG]iB  ", out, re.MULTILINE), part
    assert ("writing" in out) == (verb in ("train-ppo", "train-grpo")) == ("rollouts of" in out)
    assert ("value network  " in out) == (verb == "train-ppo")
    assert re.search(r"^time +about .*\n", out, re.MULTILINE) and "fits             yes" in out
    assert ("log-probabilities, once" in out) == (verb == "train-dpo")
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_not_tried_and_a_flag_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate_memory, "program", lambda device, memory: 0)
    monkeypatch.setattr(estimate_memory, "available", lambda device: 24 * MIB)
    rows = ["--dataset", "tiny-instructions", "--max-samples", "400", "--batch-size", "64", "--max-steps", "2"]
    assert main.main(["train-sft", "--model", "tiny", *rows, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "not measured, as a step would not fit" in out and re.search(r"fits +no: ", out)
    assert re.search(r"try --micro-batch-tokens \d+: about [\d.]+ MiB", out)
    assert not Path("checkpoints").exists()


def test_where_not_even_the_weights_fit_nothing_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate_memory, "available", lambda device: 1000)
    monkeypatch.setattr(estimate, "saved_by", lambda *arguments: pytest.fail("a pass was tried"))
    found = dry_run(small_trainer(tmp_path / "run"))
    assert found.duration is None and not found.advice.fits and "not measured: not even" in in_lines(found, "cpu")


def test_a_dry_run_ends_as_the_run_would(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", "tiny-prompts", "--reward", "gold", "--max-new-tokens", "600"]
    assert main.main(["train-grpo", "--model", "tiny", *argv, *SHORT]) == 1
    assert "no room for 600 more" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("lora", [False, True])
def test_the_time_is_about_that_of_a_real_run(tmp_path, lora):
    trainer = small_trainer(tmp_path / "run", lora=lora, num_epochs=20)
    predicted = dry_run(trainer).duration.total
    assert predicted / 2 < trainer.train()["seconds"] < predicted * 2 + 1
