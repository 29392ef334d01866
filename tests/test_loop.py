"""The loop: the gradient of a step does not depend on how its rows are cut; checks, logs and saves hang on the step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.sft import SFTConfig, SFTTrainer, sft_loss
from auto_bot_tuner.training import engine
from auto_bot_tuner.training.batching import collate, cut_by_tokens, epoch_order, share_between
from auto_bot_tuner.training.events import Event
from auto_bot_tuner.training.optim import build_optimizer, learning_rate_at
from auto_bot_tuner.training.run_folder import checkpoints
from auto_bot_tuner.utils.errors import UserError
from tests.models import gpt2_tokenizer, tiny_model
from tests.training_runs import VOCABULARY, logged, losses, random_rows, small_model, small_trainer, weights


def gradient_by_hand(model: Any, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The gradient of rule 9's definition: the sum of all rows' NLL over the number of all their trained tokens."""
    total, count = torch.zeros(()), 0
    for row in rows:
        loss, metrics = sft_loss(model(input_ids=row["input_ids"][None]).logits, row["labels"][None])
        total, count = total + loss * metrics["num_tokens"], count + metrics["num_tokens"]
    (total / count).backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return gradient


@pytest.mark.parametrize("budget", [1, 60, 10_000])  # row by row, a few at a time, all at once
def test_the_gradient_of_a_step_is_that_of_the_mean_over_its_tokens(tmp_path: Path, budget: int) -> None:
    trainer = small_trainer(tmp_path, micro_batch_tokens=budget, max_grad_norm=0.0)
    micro_batches = next(trainer.batches())
    rows = [trainer.train_dataset[row] for batch in micro_batches for row in batch.rows]
    expected = gradient_by_hand(small_model(), rows)
    found: dict[str, torch.Tensor] = {}
    trainer.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters()})
    with pytest.raises(UserError, match="moved nothing"):  # the optimiser above only looks
        trainer.update(micro_batches)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=2e-6), name


def test_cutting_the_rows_of_a_step_differently_gives_the_same_run(tmp_path: Path) -> None:
    cuts = {"8x1": (8, 1, 0), "4x2": (4, 2, 100), "1x8": (1, 8, 1)}
    runs = {}
    for name, (batch_size, accumulation, budget) in cuts.items():
        settings = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "micro_batch_tokens": budget}
        small_trainer(tmp_path / name, **settings).train()
        runs[name] = losses(tmp_path / name)
    assert len(runs["8x1"]) == 10  # 37 rows: five steps an epoch, the last of five rows
    assert runs["4x2"] == pytest.approx(runs["8x1"], abs=1e-5)
    assert runs["1x8"] == pytest.approx(runs["8x1"], abs=1e-5)


def test_the_loop_equals_a_plain_one_written_out(tmp_path: Path) -> None:
    """Ten steps of AdamW with warm-up, linear decay, clipping and weight decay, as a manual would write them."""
    settings = {
        "lr_schedule": "linear",
        "warmup": 2,
        "max_grad_norm": 0.5,
        "weight_decay": 0.1,
        "micro_batch_tokens": 70,
    }
    trainer = small_trainer(tmp_path, **settings)
    rows_of_steps = []
    for micro_batches in trainer.batches():
        rows_of_steps.append([row for batch in micro_batches for row in batch.rows])
        trainer.state.step += 1

    model = small_model()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    expected = []
    for step, rows in enumerate(rows_of_steps):
        factor = (1 / 3, 2 / 3)[step] if step < 2 else 1 - (step - 2) / 8
        optimizer.zero_grad()
        nll, count = torch.zeros(()), 0
        for row in rows:
            input_ids, labels = (trainer.train_dataset[row][name] for name in ("input_ids", "labels"))
            logprobs = model(input_ids=input_ids[None]).logits[0, :-1].log_softmax(-1)
            for t, label in enumerate(labels[1:].tolist()):
                if label != -100:
                    nll, count = nll - logprobs[t, label], count + 1
        (nll / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor
        optimizer.step()
        expected.append((nll / count).item())

    small_trainer(tmp_path / "run", **settings).train()
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=2e-5)


def test_a_rows_first_token_is_no_target_and_has_no_weight() -> None:
    rows = [{**row, "labels": row["input_ids"].clone()} for row in random_rows(4)]  # plain text: all is trained
    assert collate(rows, range(4)).weight == sum(len(row["input_ids"]) - 1 for row in rows)


def test_each_epoch_sees_every_row_once_in_another_order(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path)
    seen = []
    for micro_batches in trainer.batches():
        seen.append([row for batch in micro_batches for row in batch.rows])
        trainer.state.step += 1
    first, second = sum(seen[:5], []), sum(seen[5:], [])
    assert sorted(first) == sorted(second) == list(range(37))
    assert first != second
    assert epoch_order(37, 42, 0) != epoch_order(37, 43, 0)


def test_cuts_hold_every_row_once_and_keep_to_the_budget() -> None:
    lengths = [int(x) for x in torch.randint(1, 50, (200,), generator=torch.Generator().manual_seed(0))]
    cuts = cut_by_tokens(range(200), lengths, token_budget=64)
    assert sorted(sum(cuts, [])) == list(range(200))
    assert all(len(cut) == 1 or len(cut) * max(lengths[r] for r in cut) <= 64 for cut in cuts)


@pytest.mark.parametrize(("rows", "processes"), [(7, 2), (1, 4), (8, 3), (3, 3)])
def test_every_process_gets_the_same_number_of_cuts(rows: int, processes: int) -> None:
    cuts = share_between(cut_by_tokens(range(rows), [5] * rows, 10), [5] * rows, processes)
    assert len(cuts) % processes == 0
    assert sorted(sum(cuts, [])) == list(range(rows))


def test_a_process_without_rows_takes_part_with_weight_zero() -> None:
    batch = collate(random_rows(3), [])
    assert batch.weight == 0 and batch.tokens == 0 and batch["input_ids"].shape[0] == 1


def test_a_padding_id_equal_to_eos_costs_no_end_token() -> None:
    rows = random_rows(5)
    batch = collate(rows, range(5))
    assert (batch["labels"] == 0).sum() == 5  # STOP is 0, and so is the padding: five ends are trained, no padding is
    assert batch.weight == sum(int((row["labels"] != -100).sum()) for row in rows)


def test_the_learning_rate_by_hand() -> None:
    assert [learning_rate_at(s, 10, 4, "constant") for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert [learning_rate_at(s, 4, 0, "linear") for s in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert learning_rate_at(2, 4, 0, "cosine") == pytest.approx(0.5)
    assert learning_rate_at(0, 100, 0.1, "cosine") == pytest.approx(1 / 11)  # a fraction: ten steps of warm-up
    assert learning_rate_at(0, 3, 50, "linear") > 0  # warm-up longer than the run


def test_decay_takes_matrices_and_spares_norms_and_biases() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    optimizer = build_optimizer(model.named_parameters(), SFTConfig(weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {"transformer.wte.weight", "transformer.wpe.weight"} | {
        f"transformer.h.0.{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_perplexity_and_accuracy_are_means_over_tokens_not_over_batches(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, eval_batch_size=2)
    metrics = trainer.evaluate()
    nll, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for row in trainer.eval_dataset:
            logits = trainer.model(input_ids=row["input_ids"][None]).logits[0, :-1]
            for t, label in enumerate(row["labels"][1:].tolist()):
                if label != -100:
                    nll -= math.log(logits[t].softmax(-1)[label].item())
                    correct += int(logits[t].argmax().item() == label)
                    count += 1
    assert metrics["eval_loss"] == pytest.approx(nll / count, abs=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(nll / count), rel=1e-4)
    assert metrics["eval_accuracy"] == pytest.approx(correct / count)


def test_bfloat16_weights_are_trained_in_float32(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path)
    model = small_model().bfloat16()
    engine.prepare_model(model, trainer.config)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bf16_autocast_stays_close_to_float32(tmp_path: Path) -> None:
    small_trainer(tmp_path / "fp32", learning_rate=1e-3).train()
    small_trainer(tmp_path / "bf16", learning_rate=1e-3, precision="bf16").train()
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), abs=0.01)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_dropout_follows_the_setting(family: str) -> None:
    model = tiny_model(family)  # GPT-2's modules and Llama's number, both 0.1 in their configs
    for probability in (0.0, 0.3):
        engine.set_dropout(model, probability)
        model.train()
        input_ids = torch.arange(12)[None]
        first, second = (model(input_ids=input_ids).logits for _ in range(2))
        assert torch.equal(first, second) == (probability == 0.0)


def test_the_seed_decides_dropout_and_noise(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("other", 7), ("third", 8)):
        trainer = small_trainer(tmp_path / name, seed=seed, noisy=True, max_steps=3)
        torch.manual_seed(len(name) * 100 + ord(name[0]))  # whatever happens between loading and training
        trainer.train()
    assert losses(tmp_path / "one") == losses(tmp_path / "other") != losses(tmp_path / "third")


def test_gradient_checkpointing_changes_no_loss(tmp_path: Path) -> None:
    small_trainer(tmp_path / "plain").train()
    small_trainer(tmp_path / "checkpointed", gradient_checkpointing=True).train()
    assert losses(tmp_path / "checkpointed") == pytest.approx(losses(tmp_path / "plain"), abs=1e-6)


def test_neftune_adds_noise_of_the_papers_size_in_training_only(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, neftune_alpha=5.0)
    embedding = trainer.model.get_input_embeddings()
    trainer.model.train()
    trainer.row_lengths = torch.tensor([10, 40])
    input_ids = torch.randint(VOCABULARY, (1, 50))  # flat: each token's noise goes by its own row's length
    clean = embedding(input_ids)
    noise = (trainer.add_embedding_noise(embedding, None, clean) - clean).detach()[0]
    for part, length in ((noise[:10], 10), (noise[10:], 40)):
        bound = 5.0 / math.sqrt(length * 32)
        assert part.abs().max() <= bound
        assert part.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)  # uniform on (-b, b)
    trainer.model.eval()
    assert trainer.add_embedding_noise(embedding, None, clean) is clean


def test_sft_memorises_and_the_loss_goes_to_zero(tmp_path: Path) -> None:
    rows = random_rows(4)
    config = SFTConfig(
        output_dir=str(tmp_path), learning_rate=1e-2, num_epochs=60, batch_size=4, gradient_accumulation_steps=1,
        report_to=(), num_samples=0,
    )  # fmt: skip
    summary = SFTTrainer(small_model(), gpt2_tokenizer(), rows, rows, config).train()
    assert summary["eval_loss"] < 0.05 and summary["eval_accuracy"] == 1.0


def test_lora_moves_the_adapter_and_nothing_else(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, lora=True, max_steps=3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_defaults_differ_between_full_and_lora(tmp_path: Path) -> None:
    full = small_trainer(tmp_path / "full", learning_rate=None)
    lora = small_trainer(tmp_path / "lora", learning_rate=None, lora=True)
    assert (full.peak_learning_rate, lora.peak_learning_rate) == (2e-5, 2e-4)


def test_metrics_say_what_happened(tmp_path: Path) -> None:
    events: list[Event] = []
    trainer = small_trainer(tmp_path, logging_steps=4, eval_steps=5, save_steps=5)
    trainer.callbacks.append(events.append)
    summary = trainer.train()
    lines = logged(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [1, 4, 8, 10]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 5, 10]
    assert {"loss", "learning_rate", "grad_norm", "accuracy", "perplexity", "num_tokens", "epoch"} <= set(lines[1])
    assert [event.name for event in events][:3] == ["start", "evaluate", "step"]
    assert events[-1].name == "end" and summary["steps"] == 10 and Path(summary["final"]).is_dir()


def test_a_logged_loss_is_the_mean_over_the_tokens_since_the_last_line(tmp_path: Path) -> None:
    small_trainer(tmp_path / "each").train()
    small_trainer(tmp_path / "fifth", logging_steps=5).train()
    each = [line for line in logged(tmp_path / "each") if "loss" in line]
    fifth = [line for line in logged(tmp_path / "fifth") if "loss" in line]
    window = each[5:10]
    expected = sum(line["loss"] * line["num_tokens"] for line in window) / sum(line["num_tokens"] for line in window)
    assert fifth[-1]["loss"] == pytest.approx(expected, abs=1e-6)


def test_save_total_limit_keeps_the_newest(tmp_path: Path) -> None:
    small_trainer(tmp_path, save_steps=2, save_total_limit=2).train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-10"]


def test_keep_best_puts_the_best_weights_into_final_and_patience_ends_the_run(tmp_path: Path) -> None:
    # A learning rate that soon makes things worse.
    trainer = small_trainer(
        tmp_path, learning_rate=0.5, lr_schedule="constant", max_grad_norm=0.0, num_epochs=40, eval_steps=1,
        keep_best=True, early_stopping_patience=3,
    )  # fmt: skip
    trainer.train()
    evaluations = {line["step"]: line["eval_loss"] for line in logged(tmp_path) if "eval_loss" in line}
    best = min(evaluations, key=lambda step: evaluations[step])
    assert trainer.state.best_step == best
    assert trainer.state.step == best + 3  # patience
    assert trainer.evaluate()["eval_loss"] == pytest.approx(evaluations[best], abs=1e-6)


def test_damaged_best_weights_do_not_get_into_final(tmp_path: Path) -> None:
    def flip_a_bit(event: Event) -> None:
        if event.name == "evaluate" and event.step == 4:
            weights_file = tmp_path / f"checkpoint-{trainer.state.best_step}" / "model.safetensors"
            content = weights_file.read_bytes()
            weights_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    trainer = small_trainer(
        tmp_path, learning_rate=0.5, lr_schedule="constant", max_grad_norm=0.0, max_steps=4, eval_steps=2,
        keep_best=True,
    )  # fmt: skip
    trainer.callbacks.append(flip_a_bit)
    trainer.train()
    assert trainer.state.best_step == 0
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logged(tmp_path)[-1]["eval_loss"], abs=1e-6)
    assert "checkpoint-0, the best so far, is damaged" in (tmp_path / "notes.jsonl").read_text()


def test_a_folder_that_holds_a_run_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    small_trainer(tmp_path, max_steps=1, save_steps=1).train()
    with pytest.raises(UserError, match="already holds a run") as refusal:
        small_trainer(tmp_path, max_steps=1).train()
    assert "--resume" in str(refusal.value) and "--overwrite" in str(refusal.value)
    small_trainer(tmp_path, max_steps=2, overwrite=True).train()
    assert logged(tmp_path)[-1]["step"] == 2


def refused(trainer: SFTTrainer) -> str:
    with pytest.raises(UserError) as refusal:
        trainer.train()
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_step_zero_checks_name_the_cause(tmp_path: Path) -> None:
    rows = random_rows()
    untrained = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows]
    trainer = small_trainer(tmp_path / "a")
    trainer.train_dataset = untrained
    assert "no trained token" in refused(trainer)

    trainer = small_trainer(tmp_path / "b")
    trainer.train_dataset = [{**row, "input_ids": row["input_ids"] + VOCABULARY} for row in rows]
    assert "no embedding" in refused(trainer)

    class NeverStops(list):  # type: ignore[type-arg]
        stop_token_ids = (VOCABULARY + 1,)

    trainer = small_trainer(tmp_path / "c")
    trainer.train_dataset = NeverStops(rows)
    assert "never learn to stop" in refused(trainer)

    trainer = small_trainer(tmp_path / "d", learning_rate=1e-30)
    assert "moved nothing" in refused(trainer)


def test_a_save_that_would_fail_fails_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_trainer(tmp_path)

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.model, "save_pretrained", full_disk)
    assert "No space left on device" in refused(trainer)
    assert trainer.state.step == 0


def test_rows_without_a_trained_token_are_named(tmp_path: Path) -> None:
    rows = random_rows()
    nothing = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows]
    trainer = small_trainer(tmp_path / "a", batch_size=1)
    trainer.train_dataset = [*nothing[:30], *rows[30:]]
    assert "has no trained token" in refused(trainer)
    for name, dataset in (("b", []), ("c", nothing)):
        trainer = small_trainer(tmp_path / name)
        trainer.eval_dataset = dataset
        assert "evaluation rows hold no trained token" in refused(trainer)


def test_neftune_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, neftune_alpha=5.0, max_steps=1)
    trainer.train()
    assert not trainer.model.get_input_embeddings()._forward_hooks
    assert not trainer.model.training


def test_the_first_loss_that_is_not_a_number_stops_the_run_and_saves_nothing(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, save_steps=1)

    def poison(event: Event) -> None:
        if event.name == "save" and event.step == 3:
            next(iter(trainer.model.parameters())).data[:] = float("nan")

    trainer.callbacks.append(poison)
    message = refused(trainer)
    assert "nan" in message and "step 4" in message
    assert not (tmp_path / "final").exists()
    assert all(torch.isfinite(p).all() for folder in checkpoints(tmp_path) for p in weights(folder).values())
