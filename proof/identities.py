"""Claims that need no formula: two ways to the same thing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from auto_bot_tuner.rlhf.reward_model import RewardModel
from auto_bot_tuner.training.batching import Batch, collate
from auto_bot_tuner.training.flat import hidden_states_at, make_flat, real_tokens
from auto_bot_tuner.training.loop import Trainer
from auto_bot_tuner.training.reference import build_reference, choose_reference
from auto_bot_tuner.utils.saving import merge
from proof.claims import EXACT, FLOAT32, MODEL, Bound, Case, Claim, Paper
from proof.sft import WORDS, model_of, models
from tests.reward_runs import small_reward_model
from tests.training_runs import logged, losses, small_model, small_trainer, weights


def once(**settings: Any) -> Iterator[Case]:
    yield settings


def curve(batch_size: int, accumulation: int, budget: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        cut = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "micro_batch_tokens": budget}
        small_trainer(Path(folder), num_epochs=1, **cut).train()
        return losses(Path(folder))


class Killed(Exception):
    """Stands for whatever ends a process."""


def a_run(folder: Path, kill_at: int | None = None, resume: bool = False, lora: bool = False) -> None:
    trainer = small_trainer(folder, lora=lora, save_steps=2, max_steps=6, noisy=True, resume=resume)

    def kill(event: Any) -> None:
        if event.name == "step" and event.step == kill_at:
            raise Killed

    trainer.callbacks.append(kill)
    trainer.train()


def result(folder: Path) -> list[Any]:
    """Every logged number, and the final weights as sums of their bits."""
    curve = [[line[name] for name in sorted(line) if isinstance(line[name], float)] for line in logged(folder)]
    bits = [int(tensor.view(torch.int32).long().sum()) for _, tensor in sorted(weights(folder / "final").items())]
    return [curve, bits]


@cache
def uninterrupted() -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        a_run(Path(folder))
        return result(Path(folder))


def killed_and_resumed(case: Case) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            a_run(Path(folder), kill_at=case["kill_at"])
        except Killed:
            a_run(Path(folder), resume=True)
        return result(Path(folder))


IDS = torch.arange(1, 25).view(2, 12)


def adapted(seed: int = 5) -> Any:
    """A LoRA model whose adapter does something."""
    model = small_model(lora=True)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def adapter_off(case: Case) -> torch.Tensor:
    """As the reference of DPO, PPO and GRPO is had without a copy."""
    model = small_model(lora=True)
    kind = choose_reference(model, None, "auto")
    assert kind == "adapter_off"
    reference = build_reference(kind, model, None)
    for name, parameter in model.named_parameters():  # the policy moves on
        if "lora_B" in name:
            parameter.data += 0.2
    assert reference is not None
    batch = Batch(
        {
            "input_ids": IDS,
            "labels": IDS,
            "lengths": torch.tensor([12, 12]),
            "shared": torch.zeros(2, dtype=torch.long),
        },
        24,
        24,
        [0, 1],
    )
    return reference.logprobs(batch)


def base_alone(case: Case) -> torch.Tensor:
    logprobs = logits_of(small_model().eval())[:, :-1].double().log_softmax(-1).gather(-1, IDS[:, 1:, None])[..., 0]
    return torch.cat([torch.zeros(2, 1, dtype=torch.float64), logprobs], dim=1)


def saved_and_loaded(case: Case) -> torch.Tensor:
    model = small_reward_model(lora=case["lora"])
    model.offset = 0.25
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        if case["lora"]:
            model = RewardModel(model.model.merge_and_unload())
        model.save_pretrained(folder)
        return RewardModel.from_pretrained(folder, "cpu")(IDS)


def before_saving(case: Case) -> torch.Tensor:
    model = small_reward_model(lora=case["lora"])
    model.offset = 0.25
    with torch.no_grad():
        return model(IDS)


def packed(case: Case, is_flat: bool) -> torch.Tensor:
    """Hidden states of all real tokens, the rows end to end or padded."""
    model = model_of(case).eval()
    batch = collate(case["rows"], range(len(case["rows"])))
    assert not is_flat or make_flat(model, WORDS)
    real = real_tokens(batch["input_ids"], batch["lengths"])
    with torch.no_grad():
        return hidden_states_at(model, is_flat, batch["input_ids"], batch["lengths"], real)


RULES = Paper("two ways to the same")
CLAIMS = [
    *(
        Claim(
            f"{name} = 8 × 1, five steps",
            Trainer.learn_from,
            RULES,
            "tests/test_loop.py::test_cutting_the_rows_of_a_step_differently_gives_the_same_run",
            lambda cut=cut: once(cut=cut),
            lambda case: curve(*case["cut"]),
            lambda case: curve(8, 1, 0),
            "the run whose steps are one forward pass",
            peer_is="not compared here: see GRPO's micro-batches",
            bound=Bound(1e-5, "five steps of Adam on float32 rounding"),
            formula=r"\sum_i \frac{w_i}{W} \nabla L_i",
        )
        for name, cut in (("4 × 2", (4, 2, 100)), ("1 × 8", (1, 8, 1)))
    ),
    Claim(
        "packed = padded",
        hidden_states_at,
        RULES,
        "tests/test_sft_loss.py::test_flat_and_padded_equal_each_row_by_itself",
        models,
        lambda case: packed(case, True),
        lambda case: packed(case, False),
        "the same rows in a padded batch",
        peer_is="packs too: not compared",
        bound=MODEL,
        formula=r"h_t(\text{flat}) = h_t(\text{padded})",
    ),
    Claim(
        "adapter off = base",
        build_reference,
        RULES,
        "tests/test_dpo_reference.py::test_adapters_give_what_a_deep_copy_gives_before_and_after_the_policy_has_moved",
        lambda: once(),
        adapter_off,
        base_alone,
        "the base model without any adapter, transformers' own forward",
        peer_is="does the same (`use_adapter`): not compared",
        bound=MODEL,
        formula=r"\pi_{ref} = \pi_{\theta \setminus \Delta}",
    ),
    Claim(
        "merged = adapter",
        merge,
        RULES,
        "tests/test_export.py::test_merging_gives_the_adapted_models_logits_and_says_how_far_they_are",
        lambda: once(),
        lambda case: logits_of(merge(adapted())),
        lambda case: logits_of(adapted()),
        "base and adapter apart",
        peer_is="does the same by peft: not compared",
        bound=MODEL,
        formula=r"W + \frac{\alpha}{r} B A",
    ),
    *(
        Claim(
            f"a reward model saved and loaded{', from LoRA' if lora else ''}",
            RewardModel.save_pretrained,
            RULES,
            "tests/test_reward_model.py::test_a_saved_reward_model_scores_as_before",
            lambda lora=lora: once(lora=lora),
            saved_and_loaded,
            before_saving,
            "its scores before, zero point included",
            peer_is="not compared",
            bound=FLOAT32 if lora else EXACT,
            formula=r"r(\text{loaded}) = r",
        )
        for lora in (False, True)
    ),
    Claim(
        "killed and resumed = never stopped",
        Trainer.train,
        RULES,
        "tests/test_resume.py::test_killed_in_the_middle_of_an_epoch",
        lambda: iter([{"kill_at": 3}, {"kill_at": 4}]),
        killed_and_resumed,
        lambda case: uninterrupted(),
        "an uninterrupted run with noise on its embeddings: every logged figure, the bits of the final weights",
        peer_is="not compared",
        bound=EXACT,
        formula=r"\theta_n, L_1, \dots, L_n",
    ),
]
