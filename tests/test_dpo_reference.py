"""The reference is what the policy was before training, however it is had; and it is never trained nor saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import ValidationError

from auto_bot_tuner.dpo import DPOConfig, create_reference_model
from auto_bot_tuner.dpo.checks import check_start
from auto_bot_tuner.dpo.config import WITHOUT_REFERENCE
from auto_bot_tuner.training import reference
from auto_bot_tuner.training.batching import collate_groups
from auto_bot_tuner.training.reference import (
    Reference,
    add_frozen_adapter,
    build_reference,
    is_new_adapter,
    with_adapter,
)
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from tests.models import save_tiny_model
from tests.preference_runs import Pairs, dpo_trainer
from tests.training_runs import logged, losses, small_model


def choose_reference(policy: Any, given: Any, config: DPOConfig) -> str:
    """As the trainer chooses."""
    return reference.choose_reference(
        policy, given, config.reference, config.loss if config.loss in WITHOUT_REFERENCE else ""
    )


IDS = torch.tensor([[5, 6, 7, 8, 9]])


def trained_adapter(seed: int = 7) -> Any:
    """A policy whose adapter has learnt something: its B is not zero."""
    model = small_model(lora=True)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if ".lora_B." in name:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def response_logprobs(model: Any, rows: Pairs, index: int, side: int) -> float:
    """Sum of log pi(token | before) over the answer and its stop token, from the plain logits of one row."""
    prompt, answer = rows.questions[index], rows.answers[index][side]
    ids = torch.cat([prompt, answer])
    with torch.no_grad():
        logprobs = model(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
    return sum(float(logprobs[t - 1, ids[t]]) for t in range(len(prompt), len(ids)))


# ---- create_reference_model ----


@pytest.mark.parametrize("lora", [False, True])
def test_a_frozen_deep_copy_in_eval_mode(lora: bool) -> None:
    policy = trained_adapter() if lora else small_model()
    policy.train()
    before = logits(policy)
    reference = create_reference_model(policy, "cpu")
    assert not reference.training and policy.training
    assert not any(p.requires_grad for p in reference.parameters())
    assert torch.equal(logits(reference), before)
    for p in policy.parameters():
        p.data += 1.0
    assert torch.equal(logits(reference), before)  # nothing is shared
    assert any(p.requires_grad for p in policy.parameters())


# ---- which one ----


def test_auto_takes_the_exact_one_that_costs_least() -> None:
    auto = DPOConfig()
    assert choose_reference(small_model(), None, auto) == "copy"
    assert choose_reference(small_model(lora=True), None, auto) == "adapter_off"
    assert choose_reference(trained_adapter(), None, auto) == "adapter_copy"
    assert choose_reference(small_model(), small_model(), auto) == "given"
    assert choose_reference(small_model(), None, DPOConfig(loss="simpo")) == "none"
    assert choose_reference(small_model(), small_model(), DPOConfig(reference="precomputed")) == "precomputed"


@pytest.mark.parametrize(
    ("wanted", "policy", "given", "said"),
    [
        ({"reference": "adapter_off"}, trained_adapter, None, "use reference adapter_copy"),
        ({"reference": "adapter_off"}, small_model, None, "use reference copy"),
        ({"reference": "adapter_copy"}, small_model, None, "needs a policy with an adapter"),
        ({"reference": "adapter_off"}, lambda: small_model(lora=True), small_model, "leave one of them out"),
        ({"loss": "orpo"}, small_model, small_model, "give reference_model=None"),
    ],
)
def test_contradictions_are_refused_in_one_line(wanted: Any, policy: Any, given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        choose_reference(policy(), given() if given else None, DPOConfig(**wanted))
    assert "\n" not in str(refusal.value)


def test_a_reference_that_would_move_along_is_refused() -> None:
    policy = small_model()
    with pytest.raises(UsageError, match="shares weights"):
        choose_reference(policy, policy, DPOConfig())
    base = small_model()
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))  # peft puts the adapter into `base`
    with pytest.raises(UsageError, match="shares weights"):
        choose_reference(adapted, base, DPOConfig())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "sigmoid", "reference": "none"}, "compares with a reference"),
        ({"loss": "simpo", "reference": "copy"}, "has no reference"),
        ({"loss": "kto", "reference": "precomputed"}, "cannot be precomputed"),
        ({"loss": "conservative"}, "say which share of labels is wrong"),
        ({"loss": "sigmoid", "label_smoothing": 0.1}, "not read by loss sigmoid"),
        ({"loss": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        ({"loss": "orpo", "sft_weight": 1.0}, "not read by loss orpo"),
        ({"dropout": 0.1}, "dropout must be 0"),
        ({"beta": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DPOConfig(**settings)


# ---- the same numbers by each way ----


def test_log_probabilities_are_those_of_the_answer_alone() -> None:
    """Prompt tokens are not counted, the stop token is: though the batch is padded with its very id, 0."""
    rows, model = Pairs(), small_model().eval()
    batch = collate_groups(rows, [3, 0, 5])
    found = Reference(model).logprobs(batch).sum(dim=1)
    expected = [response_logprobs(model, rows, row, side) for row in (3, 0, 5) for side in (0, 1)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    without_stop = [len(answer) - 1 for row in (3, 0, 5) for answer in rows.answers[row]]
    counted = (batch["labels"] != -100).sum(dim=1)
    assert counted.tolist() == [length + 1 for length in without_stop]


@pytest.mark.parametrize("kind", ["adapter_off", "adapter_copy"])
def test_adapters_give_what_a_deep_copy_gives_before_and_after_the_policy_has_moved(kind: str) -> None:
    policy = small_model(lora=True) if kind == "adapter_off" else trained_adapter()
    copy, batch = Reference(create_reference_model(policy)), collate_groups(Pairs(), range(8))
    reference = build_reference(kind, policy, None)
    expected = copy.logprobs(batch)
    assert torch.equal(reference.logprobs(batch), expected)
    for p in policy.parameters():
        if p.requires_grad:
            p.data += 0.1
    assert torch.equal(reference.logprobs(batch), expected)
    assert not torch.equal(Reference(policy).logprobs(batch), expected)


def test_a_second_trainer_of_a_policy_starts_from_where_the_first_one_ended(tmp_path: Path) -> None:
    """In a notebook: the check of step 0 holds again, against the adapter as it is now."""
    policy = trained_adapter()
    for name in ("first", "second"):
        trainer = dpo_trainer(tmp_path / name, policy, max_steps=1)
        trainer.train()
        assert trainer.reference_kind == "adapter_copy" and policy.active_adapter == "default"
        assert logged(tmp_path / name)[0]["eval_reward_margin"] == 0


def test_switching_adapters_leaves_the_trained_one_trainable_and_active() -> None:
    policy = trained_adapter()
    trainable = {name for name, p in policy.named_parameters() if p.requires_grad}
    before = logits(policy)
    add_frozen_adapter(policy)
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trainable
    with pytest.raises(RuntimeError), with_adapter(policy, "reference"):
        raise RuntimeError
    assert policy.active_adapter == "default"
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trainable
    assert torch.equal(logits(policy), before)


def test_new_means_that_the_adapter_does_nothing() -> None:
    assert is_new_adapter(small_model(lora=True))
    assert not is_new_adapter(trained_adapter())
    assert not is_new_adapter(small_model())


@pytest.mark.parametrize("start", ["full", "new adapter", "trained adapter"])
def test_strategies_give_equal_runs(start: str, tmp_path: Path) -> None:
    def policy() -> Any:
        return {"full": small_model, "new adapter": lambda: small_model(lora=True), "trained adapter": trained_adapter}[
            start
        ]()

    kinds = {"full": ["precomputed"], "new adapter": ["adapter_off", "adapter_copy", "precomputed"]}.get(
        start, ["adapter_copy", "precomputed"]
    )
    runs, short = {}, {"max_steps": 4, "learning_rate": 5e-2}
    for kind in ["copy", *kinds]:
        folder = tmp_path / kind
        dpo_trainer(folder, policy(), reference=kind, **short).train()
        runs[kind] = losses(folder)
    given = dpo_trainer(tmp_path / "given", policy(), create_reference_model(policy(), "cpu"), **short)
    assert given.starts_equal
    given.train()
    assert losses(tmp_path / "given") == runs["copy"]
    for kind in kinds:
        if kind == "precomputed":  # computed in other batches, which round differently
            assert runs[kind] == pytest.approx(runs["copy"], abs=1e-4)
        else:
            assert runs[kind] == runs["copy"], kind
    assert max(runs["copy"]) - min(runs["copy"]) > 0.005


# ---- stored log-probabilities ----


def test_stored_log_probabilities_are_computed_once_and_keyed_by_weights_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = Reference.logprobs
    monkeypatch.setattr(Reference, "logprobs", lambda self, batch: calls.append(1) or original(self, batch))

    def computed(folder: str, policy: Any, rows: Any = None) -> int:
        calls.clear()
        dpo_trainer(tmp_path / folder, policy, rows=rows, reference="precomputed", max_steps=1).evaluate()
        return len(calls)

    assert computed("a", small_model()) > 0
    assert computed("b", small_model()) == 0  # from the cache
    other = small_model()
    other.lm_head.weight.data[3, 3] += 0.5
    assert computed("c", other) > 0
    rows = Pairs()
    rows.answers[2][1][0] = rows.answers[2][1][0] % 90 + 1
    assert computed("d", small_model(), rows) > 0


def test_stored_values_stand_where_the_reference_would_put_them(tmp_path: Path) -> None:
    trainer = dpo_trainer(tmp_path, reference="precomputed", micro_batch_tokens=60)
    trainer.prepare()
    batch = trainer.collate(trainer.train_dataset, [7, 2, 19])
    expected = Reference(small_model()).logprobs(batch)
    assert torch.allclose(batch["reference_logprobs"], expected, atol=1e-5)
    assert torch.equal(batch["reference_logprobs"] == 0, expected == 0)


# ---- the checks of the first step ----


def test_a_wrong_reference_is_found_at_step_0(tmp_path: Path) -> None:
    trainer = dpo_trainer(tmp_path, trained_adapter(), reference="adapter_copy")
    # The classic trap, rebuilt: the adapter switched off, though the start was base and adapter together.
    trainer.reference = build_reference("adapter_off", trainer.model, None)
    with pytest.raises(UserError, match="before the first step policy and reference"):
        trainer.train()


def test_weights_changed_behind_the_trainers_back_are_found(tmp_path: Path) -> None:
    policy = small_model()
    trainer = dpo_trainer(tmp_path, policy)
    policy.lm_head.weight.data *= 1.5
    with pytest.raises(UserError, match="nats per token"):
        trainer.evaluate()


def test_frozen_weights_of_a_lower_type_round_and_are_no_wrong_reference(tmp_path: Path) -> None:
    """A bfloat16 base in an fp32 run: stored log-probabilities of other batches differ by some 1e-3."""
    trainer = dpo_trainer(tmp_path, small_model(lora=True), reference="precomputed", precision="fp32")
    with pytest.raises(UserError, match=r"differ by 0\.0015 nats"):
        check_start(trainer, 0.0015, math.log(2))
    for name, p in trainer.model.named_parameters():
        if ".lora_" not in name:
            p.data = p.data.bfloat16()
    check_start(trainer, 0.0015, 0.6951)


def test_a_loss_that_is_not_what_it_says_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auto_bot_tuner.dpo import loss

    monkeypatch.setattr(loss, "hinge_loss", lambda margin, beta: torch.relu(2 - beta * margin))
    with pytest.raises(UserError, match=r"hinge is 1\.0000 for any pair, yet it is 2\.0000"):
        dpo_trainer(tmp_path, loss="hinge").evaluate()


def test_another_model_as_reference_is_allowed_and_named(tmp_path: Path) -> None:
    other = small_model()
    other.lm_head.weight.data *= 1.5
    trainer = dpo_trainer(tmp_path, small_model(), other)
    assert "another one than the starting policy" in trainer.facts()["reference"]
    assert trainer.evaluate()["eval_kl"] > 0


def test_dropout_in_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="set lora_dropout to 0"):
        dpo_trainer(tmp_path, small_model(lora=True, dropout_makes_noise=True))


# ---- going on from a LoRA checkpoint, by way of files ----


@pytest.fixture(scope="module")
def lora_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA checkpoint on a local base, as an SFT run leaves it, whose adapter changes the base's outputs."""
    from auto_bot_tuner.utils.saving import save_weights

    base = save_tiny_model(tmp_path_factory.mktemp("base"), "gpt2", vocab_size=50257)
    model, tokenizer, _ = load_model_and_tokenizer(base, "cpu", use_lora=True)
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if ".lora_B." in name:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    folder = tmp_path_factory.mktemp("sft")
    save_weights(model, tokenizer, folder)
    return folder


def test_going_on_from_a_lora_checkpoint(lora_checkpoint: Path, tmp_path: Path) -> None:
    policy, *_ = load_model_and_tokenizer(lora_checkpoint, "cpu", use_lora=True)
    start = logits(policy)
    trainer = dpo_trainer(tmp_path, policy, save_steps=1, max_steps=3)
    assert trainer.reference_kind == "adapter_copy"
    assert torch.equal(logits(policy), start)
    trainer.train()
    first = next(line for line in logged(tmp_path) if "loss" in line)
    assert (first["reward_margin"], first["loss"]) == (0, pytest.approx(0.6931472))
    end = logits(policy)
    assert not torch.allclose(end, start, atol=1e-2)

    # The reference is not saved along, neither in final/ nor in a checkpoint.
    assert not [path for path in tmp_path.rglob("*") if path.name == "reference"]
    # final/: merged, as the base lies only on this machine; in plain transformers it is the policy.
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "final", dtype=torch.float32)
    assert torch.allclose(logits(merged), end, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(policy.peft_config["default"].base_model_name_or_path)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "final" / "adapter"))
    assert torch.allclose(logits(adapted), end, atol=1e-5)
    # A checkpoint of the run is such a start again.
    again, _, _ = load_model_and_tokenizer(tmp_path / "checkpoint-3", "cpu")
    assert torch.allclose(logits(again), end, atol=1e-6)
