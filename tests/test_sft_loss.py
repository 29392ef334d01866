"""`sft_loss` and its chunked twin: hand-worked numbers, limits, gradients, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from auto_bot_tuner.sft import sft_loss
from auto_bot_tuner.sft.loss import perplexity
from auto_bot_tuner.training import logprobs
from auto_bot_tuner.training.logprobs import CausalNLL, SummedNLL, gather_logprobs

VOCABULARY = 53


def random_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and labels (3, 12); the prompts are 4, 1 and 7 tokens, the last row has 3 tokens of padding."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(VOCABULARY, (3, 12), generator=generator)
    labels = input_ids.clone()
    for row, prompt in enumerate((4, 1, 7)):
        labels[row, :prompt] = -100
    labels[2, 9:] = -100
    return input_ids, labels


def tiny_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    size = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    llama = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, **size}
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **size)).eval()
    if kind == "gemma2":  # caps its logits: tanh(x / 30) * 30
        config = Gemma2Config(num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.1, pad_token_id=0, **llama)
        return Gemma2ForCausalLM(config).eval()
    if kind == "mistral":  # sees four tokens back
        return MistralForCausalLM(MistralConfig(num_key_value_heads=1, sliding_window=4, **llama)).eval()
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=1, **llama)).eval()


def test_a_hand_worked_loss() -> None:
    # Two words. Position 0 predicts label 1 with probability 3/4, position 1 predicts label 0 with 1/5.
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(4)], [7.0, 7.0]]])  # the last logit predicts nothing
    labels = torch.tensor([[0, 1, 0]])
    loss, metrics = sft_loss(logits, labels)
    expected = -(math.log(3 / 4) + math.log(1 / 5)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert metrics["loss"] == pytest.approx(expected, abs=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(expected), abs=1e-5)
    assert metrics["accuracy"] == 0.5  # the first was ranked first, the second was not
    assert metrics["num_tokens"] == 2


def test_a_model_that_knows_nothing_loses_ln_v() -> None:
    _, labels = random_batch()
    loss, metrics = sft_loss(torch.zeros(3, 12, VOCABULARY), labels)
    assert loss.item() == pytest.approx(math.log(VOCABULARY), abs=1e-6)
    assert metrics["perplexity"] == pytest.approx(VOCABULARY, rel=1e-5)


def test_the_gradient_is_softmax_minus_one_hot_on_trained_positions_and_zero_elsewhere() -> None:
    _, labels = random_batch()
    logits = torch.randn(3, 12, VOCABULARY, requires_grad=True)
    loss, metrics = sft_loss(logits, labels)
    loss.backward()
    expected = torch.zeros_like(logits)
    for row in range(3):
        for t in range(11):  # written out: the label that position t predicts is the one at t + 1
            label = labels[row, t + 1].item()
            if label != -100:
                expected[row, t] = logits[row, t].detach().exp() / logits[row, t].detach().exp().sum()
                expected[row, t, label] -= 1
    assert torch.allclose(logits.grad, expected / metrics["num_tokens"], atol=1e-6)


def test_prompt_labels_do_not_matter_and_trained_labels_do() -> None:
    _, labels = random_batch()
    logits = torch.randn(3, 12, VOCABULARY)
    other_first = labels.clone()
    other_first[1, 0] = 5  # nothing predicts the first token, so training on it changes nothing
    assert sft_loss(logits, other_first)[0] == sft_loss(logits, labels)[0]
    other_answer = labels.clone()
    other_answer[0, 6] = (labels[0, 6] + 1) % VOCABULARY
    assert sft_loss(logits, other_answer)[0] != sft_loss(logits, labels)[0]


def test_a_batch_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no trained token: .* nothing to learn from this batch$"):
        sft_loss(torch.zeros(1, 4, 5), torch.full((1, 4), -100))


def test_perplexity_is_a_number_as_long_as_a_float_can_hold_it() -> None:
    assert perplexity(math.log(2)) == pytest.approx(2)
    assert perplexity(699.5) == math.exp(699.5) and perplexity(1000.0) == math.inf


def test_half_precision_logits_are_summed_in_float32() -> None:
    # In bfloat16 the log-sum-exp of 50,000 equal logits would be off by a third of a percent.
    logits = torch.zeros(1, 2, 50257, dtype=torch.bfloat16)
    loss, _ = sft_loss(logits, torch.tensor([[1, 2]]))
    assert loss.item() == pytest.approx(math.log(50257), abs=1e-5)


def test_gather_logprobs_against_the_definition() -> None:
    logits, targets = torch.randn(4, 6, VOCABULARY, dtype=torch.float64), torch.randint(VOCABULARY, (4, 6))
    probabilities = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    expected = torch.stack(
        [torch.stack([probabilities[b, t, targets[b, t]] for t in range(6)]) for b in range(4)]
    ).log()
    assert torch.allclose(gather_logprobs(logits, targets).double(), expected, atol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 10**9])  # one token at a time, three, all at once
def test_the_chunked_sum_has_the_gradient_that_finite_differences_find(
    chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS_CPU", chunk_tokens)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCABULARY, (7,))
    total, _ = SummedNLL.apply(hidden, weight, targets, True)
    (total * 0.5).backward()  # an upstream gradient other than 1

    def plain(h: torch.Tensor, w: torch.Tensor) -> float:
        return -0.5 * (h @ w.T).log_softmax(-1)[range(7), targets].sum().item()

    for leaf, at in ((hidden, (3, 2)), (weight, (int(targets[0]), 1)), (weight, (11, 4))):
        step = torch.zeros_like(leaf)
        step[at] = 1e-5
        up = plain(hidden + step, weight) if leaf is hidden else plain(hidden, weight + step)
        down = plain(hidden - step, weight) if leaf is hidden else plain(hidden, weight - step)
        assert leaf.grad[at].item() == pytest.approx((up - down) / 2e-5, abs=1e-5)  # float32 inside


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_chunked_equals_plain_in_loss_and_in_every_gradient(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS_CPU", 4)
    model, (input_ids, labels) = tiny_model(kind), random_batch()
    loss, metrics = sft_loss(model(input_ids=input_ids).logits, labels)
    loss.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    summed, correct = (module := CausalNLL(model))(input_ids, labels, torch.tensor([12, 12, 9]))
    (summed / metrics["num_tokens"]).backward()
    assert module.head_is_plain == (kind != "gemma2")
    assert summed.item() / metrics["num_tokens"] == pytest.approx(loss.item(), abs=1e-6)
    assert correct.item() / metrics["num_tokens"] == pytest.approx(metrics["accuracy"])
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, plain[name], atol=1e-6), name


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_flat_and_padded_equal_each_row_by_itself(kind: str) -> None:
    model, (input_ids, labels) = tiny_model(kind), random_batch()
    lengths = torch.tensor([12, 12, 9])
    module = CausalNLL(model)
    assert module.is_flat
    alone = 0.0
    for row, row_labels, n in zip(input_ids, labels, lengths, strict=True):
        _, metrics = sft_loss(model(input_ids=row[:n][None]).logits, row_labels[:n][None])
        alone += metrics["loss"] * metrics["num_tokens"]
    assert module(input_ids, labels, lengths)[0].item() == pytest.approx(alone, abs=1e-4)
    module.is_flat = False
    assert module(input_ids, labels, lengths)[0].item() == pytest.approx(alone, abs=1e-4)


def test_a_trunk_that_mixes_neighbours_is_not_made_flat() -> None:
    from transformers import Lfm2Config, Lfm2ForCausalLM  # short convolutions between its attention layers

    config = Lfm2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, layer_types=["conv", "full_attention"], bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = Lfm2ForCausalLM(config).eval()
    assert not CausalNLL(model).is_flat
    assert model.config._attn_implementation == "sdpa"


def test_generation_still_works_on_a_model_made_flat() -> None:
    model = tiny_model("gpt2")
    prompt = {
        "input_ids": torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1] * 4]),
    }
    expected = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert CausalNLL(model).is_flat
    assert torch.equal(model.generate(**prompt, max_new_tokens=8, do_sample=False), expected)


def test_a_frozen_head_costs_no_weight_gradient() -> None:
    hidden, weight = torch.randn(4, 5, requires_grad=True), torch.randn(VOCABULARY, 5)
    total, _ = SummedNLL.apply(hidden, weight, torch.tensor([1, 2, 3, 4]), True)
    total.backward()
    assert weight.grad is None and hidden.grad.abs().sum() > 0
