"""What the trained tokens' sums are made of: hits, the types that are summed in, heads that are not plain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from auto_bot_tuner.training import logprobs as logprobs_module
from auto_bot_tuner.training.logprobs import (
    CausalNLL,
    SequenceLogprobs,
    SummedNLL,
    TokenLogprobs,
    chunks_of_logprobs,
)
from tests.training_runs import SIZES, VOCABULARY, small_model


@pytest.fixture
def chunks_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs_module, "CHUNK_TOKENS_CPU", 2)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("what nobody asked for was computed")


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, labels (2, 9) and lengths (2,): prompts of 3 and 5 tokens, the second row with padding."""
    input_ids = torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))
    labels = input_ids.clone()
    labels[0, :3], labels[1, :5], labels[1, 8:] = -100, -100, -100
    return input_ids, labels, torch.tensor([9, 8])


# ---- sums ----


@pytest.mark.parametrize("with_gradient", [True, False])
def test_hits_and_sums_are_over_all_chunks(with_gradient: bool, chunks_of_two: None) -> None:
    """Each state says its word clearly; the last two say two words alike, of which either is ranked first."""
    hidden = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0], [0, 9, 0], [9, 9, 0], [0, 9, 9]])
    targets = torch.tensor([0, 2, 2, 1, 1, 1, 0])
    total, hits = SummedNLL.apply(hidden.requires_grad_(with_gradient), torch.eye(3), targets, with_gradient)
    assert hits.item() == 4 and hits.dtype == torch.long  # 0, 2, 4, and 5 of the two that it says alike
    expected = -sum(hidden[i].detach().double().log_softmax(-1)[target] for i, target in enumerate(targets))
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_gradient_none_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs_module, "softmax_minus_one_hot", refuse)
    hidden, weight, targets = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True), torch.tensor([1, 0, 4])
    with torch.no_grad():
        SummedNLL.apply(hidden, weight, targets, False)
        found, entropies = TokenLogprobs.apply(hidden, weight, targets, False)
    assert entropies is None
    torch.testing.assert_close(found, (hidden @ weight.T).log_softmax(-1)[range(3), targets].detach())


def test_a_frozen_head_has_no_gradient_to_hold() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    total, _ = SummedNLL.apply(hidden, weight, torch.tensor([1, 0, 4]), True)
    assert [gradient is None for gradient in total.grad_fn.gradients] == [False, True]


@pytest.mark.parametrize("function", [SummedNLL, TokenLogprobs])
def test_a_head_in_bfloat16_has_a_gradient_summed_in_float32(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times a half: bfloat16 would stop at 128, where one more half is rounded away."""
    monkeypatch.setattr(logprobs_module, "CHUNK_TOKENS_CPU", 1)
    hidden, weight = torch.ones(1000, 1).bfloat16(), torch.zeros(2, 1).bfloat16().requires_grad_()
    function.apply(hidden.requires_grad_(), weight, torch.zeros(1000, dtype=torch.long), True)[0].sum().backward()
    assert weight.grad.abs().flatten().tolist() == pytest.approx([500, 500], rel=0.01)


def test_log_probabilities_of_bfloat16_states_are_float32() -> None:
    """ln 1000 = 6.9078; bfloat16 has 6.90625."""
    hidden, weight, targets = torch.zeros(4, 2).bfloat16(), torch.zeros(1000, 2).bfloat16(), torch.arange(4)
    with torch.no_grad():
        total, _ = SummedNLL.apply(hidden, weight, targets, False)
        each, entropies = TokenLogprobs.apply(hidden, weight, targets, False, "measured")
    assert total.item() / 4 == pytest.approx(6.9077553, abs=1e-5)
    assert each.tolist() == pytest.approx([-6.9077553] * 4, abs=1e-5)
    assert entropies.tolist() == pytest.approx([6.9077553] * 4, abs=1e-5)


def test_sums_are_float32_whatever_pytorch_makes_of_numbers_without_a_type() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    targets = torch.tensor([1, 0, 4])
    torch.set_default_dtype(torch.float64)
    try:
        total, hits = SummedNLL.apply(hidden, weight, targets, True)
        each, entropies = TokenLogprobs.apply(hidden, weight, targets, True, "trained")
        (total + each.sum() + entropies.sum()).backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {x.dtype for x in (total, each, entropies, hidden.grad, weight.grad)} == {torch.float32}
    assert hits.dtype == torch.long


# ---- chunks ----


def test_chunks_come_with_their_places_in_autocast_s_type(chunks_of_two: None) -> None:
    hidden, weight = torch.randn(5, 4), torch.randn(7, 4)
    plain = list(chunks_of_logprobs(hidden, weight, 5))
    assert [(place.start, place.stop) for place, *_ in plain] == [(0, 2), (2, 4), (4, 6)]
    assert [len(logprobs) for *_, logprobs in plain] == [2, 2, 1]
    assert all(h.dtype == head.dtype == torch.float32 for _, h, head, _ in plain)
    torch.testing.assert_close(torch.cat([logprobs for *_, logprobs in plain]), (hidden @ weight.T).log_softmax(-1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = list(chunks_of_logprobs(hidden, weight, 5))
    assert all(h.dtype == head.dtype == torch.bfloat16 for _, h, head, _ in cast)
    assert all(logprobs.dtype == torch.float32 for *_, logprobs in cast)
    assert len({head.data_ptr() for _, _, head, _ in cast}) == 1, "the head is cast once, not for every chunk"


def test_backward_multiplies_in_the_type_that_forward_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast is off in a backward pass: what is computed anew there must be told."""
    seen: list[tuple[torch.dtype, torch.dtype]] = []

    def watched(hidden: torch.Tensor, weight: torch.Tensor, tokens: int) -> Any:
        for chunk in chunks_of_logprobs(hidden, weight, tokens):
            seen.append((chunk[1].dtype, chunk[2].dtype))
            yield chunk

    monkeypatch.setattr(logprobs_module, "chunks_of_logprobs", watched)
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = TokenLogprobs.apply(hidden, weight, torch.tensor([1, 0, 4]), True)
    found.sum().backward()
    assert seen == [(torch.bfloat16, torch.bfloat16)] * 2


# ---- models ----


def test_a_vocabulary_smaller_than_the_model_is_wide() -> None:
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 11}))
    assert SequenceLogprobs(model).is_flat  # asked with tokens that it has


def biased() -> Any:
    """A model whose head is not plain."""
    model = small_model()
    model.get_output_embeddings().bias = torch.nn.Parameter(torch.linspace(-1, 1, VOCABULARY))
    return model


@pytest.mark.parametrize("make", [small_model, biased])
def test_hits_of_a_model_are_where_its_first_choice_is_the_label(make: Callable[[], Any]) -> None:
    model = make()
    input_ids, labels, lengths = rows()
    with torch.no_grad():
        choices = model(input_ids=input_ids).logits.argmax(-1)  # (2, 9), of the next token
    labels[0, 4:7] = choices[0, 3:6]  # three right ones
    labels[1, 6] = choices[1, 5]
    wrong = [(0, 3), (0, 7), (0, 8), (1, 5), (1, 7)]
    for row, t in wrong:
        labels[row, t] = (choices[row, t - 1] + 1) % VOCABULARY
    module = CausalNLL(model)
    assert module.head_is_plain == (make is small_model)
    assert module(input_ids, labels, lengths)[1].item() == 4


@pytest.mark.parametrize("make", [small_model, biased])
@pytest.mark.parametrize("entropy", ["none", "measured", "trained"])
def test_entropies_of_any_head_are_those_of_its_own_distribution(make: Callable[[], Any], entropy: Any) -> None:
    model, (input_ids, labels, lengths) = make(), rows()
    module = SequenceLogprobs(model, temperature=2.0)
    caches: list[Any] = []
    hook = model.register_forward_hook(lambda _, __, output: caches.append(output.past_key_values))
    found, entropies = module.with_entropies(input_ids, labels, lengths, None, entropy)
    hook.remove()
    assert all(cache is None for cache in caches)
    plain = (model(input_ids=input_ids).logits / 2.0).log_softmax(-1)[:, :-1]  # (2, 8, V), of the tokens from 1 on
    is_trained = labels[:, 1:] != -100
    expected = plain.gather(-1, input_ids[:, 1:, None])[..., 0] * is_trained
    of_distribution = -(plain.exp() * plain).sum(-1) * is_trained * (entropy != "none")
    torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropies[:, 1:], of_distribution, rtol=0, atol=1e-5)
    assert entropies.requires_grad == (entropy == "trained") and found.requires_grad


@pytest.mark.parametrize("make", [small_model, biased])
def test_where_no_entropy_is_asked_for_none_is_computed(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs_module, "entropy_of", refuse)
    SequenceLogprobs(make())(*rows())
