"""Log-probabilities of responses: the plain softmax's values and gradients, with the prompt computed once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from auto_bot_tuner.data.response_groups import Group
from auto_bot_tuner.training import flat as flat_module
from auto_bot_tuner.training import logprobs as logprobs_module
from auto_bot_tuner.training.batching import Batch, collate_groups, longest_sequence, sequences_of
from auto_bot_tuner.training.flat import hidden_states_at, make_flat, real_tokens
from auto_bot_tuner.training.logprobs import (
    SequenceLogprobs,
    SummedNLL,
    TokenLogprobs,
    causal_model,
    gather_logprobs,
    where_they_stand,
)
from tests.models import tiny_model
from tests.training_runs import SIZES, VOCABULARY, small_model


class Groups:
    """Two pairs and a group of three, with prompts of 4, 7 and 5 tokens."""

    def __init__(self, prompts: tuple[int, ...] = (4, 7, 5), sizes: tuple[int, ...] = (2, 2, 3)) -> None:
        generator = torch.Generator().manual_seed(3)
        self.groups = []
        for prompt_length, size in zip(prompts, sizes, strict=True):
            prompt = torch.randint(0, VOCABULARY, (prompt_length,), generator=generator)
            answers = [torch.randint(0, VOCABULARY, (3 + 2 * k,), generator=generator) for k in range(size)]
            input_ids = [torch.cat([prompt, answer]) for answer in answers]
            labels = [torch.cat([torch.full_like(prompt, -100), answer]) for answer in answers]
            self.groups.append(Group(input_ids, labels, prompt_length, [float(size - k) for k in range(size)]))
        self.lengths = [
            sum(len(ids) for ids in g.input_ids) - (len(g.input_ids) - 1) * g.prompt_length for g in self.groups
        ]

    def __len__(self) -> int:
        return len(self.groups)

    def group(self, row: int) -> Group:
        return self.groups[row]


def one_by_one(model: Any, batch: Batch) -> torch.Tensor:
    """log pi of each label by the definition: a row alone, all its logits, softmax, (S, T)."""
    rows = []
    for ids, labels, length in zip(batch["input_ids"], batch["labels"], batch["lengths"].tolist(), strict=True):
        logits = model(input_ids=ids[None, :length]).logits[0].double()
        row = torch.zeros(len(ids), dtype=torch.float64)
        for t in range(1, length):
            if labels[t] != -100:
                row = row.index_put((torch.tensor(t),), torch.log_softmax(logits[t - 1], -1)[labels[t]])
        rows.append(row)
    return torch.stack(rows)


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_values_and_gradients_of_any_function_of_them_are_those_of_the_plain_softmax(lora, flat, monkeypatch):
    monkeypatch.setattr(logprobs_module, "CHUNK_TOKENS_CPU", 4)  # several chunks, the last one shorter
    model = small_model(lora)
    if lora:  # an adapter that does something: B starts at zero
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    module = SequenceLogprobs(model)
    assert module.is_flat  # on a CPU, for a Llama
    module.is_flat = flat
    batch = collate_groups(Groups(), [0, 1, 2])

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        totals = logprobs.sum(-1)
        return torch.nn.functional.softplus(totals[1::2] - totals[:-1:2]).sum()  # not linear in the log-probabilities

    found = module(batch["input_ids"], batch["labels"], batch["lengths"], batch["shared"])
    expected = one_by_one(model, batch)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    ours, plain = gradients(model, loss(found)), gradients(model, loss(expected))
    assert ours.keys() == plain.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_prompt_computed_once_gives_the_hidden_states_of_prompts_computed_twice(family):
    model = tiny_model(family)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    batch = collate_groups(Groups(), [2, 0, 1])
    input_ids, lengths = batch["input_ids"] % vocabulary, batch["lengths"]
    wanted = real_tokens(input_ids, lengths)
    with torch.no_grad():
        expected = torch.cat(
            [
                model.base_model(input_ids=ids[None, :length]).last_hidden_state[0]
                for ids, length in zip(input_ids, lengths.tolist(), strict=True)
            ]
        )
        is_flat = make_flat(model, vocabulary)
        found = hidden_states_at(model, is_flat, input_ids, lengths, wanted, batch["shared"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_shared_prompt_costs_its_tokens_once():
    """The trunk sees the prompt once and each answer once: that is where the time is saved."""
    model = small_model()
    module = SequenceLogprobs(model)
    seen: list[int] = []
    hook = model.base_model.embed_tokens.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    groups = Groups()
    batch = collate_groups(groups, [0, 1, 2])
    module(batch["input_ids"], batch["labels"], batch["lengths"], batch["shared"])
    hook.remove()
    assert seen == [sum(groups.lengths)]


def test_a_window_of_attention_counts_the_shared_prompt():
    """A sliding window reaches over the border between a shared prompt and the second answer."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).eval()
    batch = collate_groups(Groups(), [1, 2])
    expected = one_by_one(model, batch)
    module = SequenceLogprobs(model)
    assert module.is_flat
    found = module(batch["input_ids"], batch["labels"], batch["lengths"], batch["shared"])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_in_bfloat16_the_gradient_points_where_float32_s_does():
    model = small_model()
    module = SequenceLogprobs(model)
    batch = collate_groups(Groups(), [0, 1, 2])
    arguments = batch["input_ids"], batch["labels"], batch["lengths"], batch["shared"]
    exact = gradients(model, module(*arguments).sum(-1).div(20).tanh().sum())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs = module(*arguments)
    assert logprobs.dtype == torch.float32
    rounded = gradients(model, logprobs.sum(-1).div(20).tanh().sum())
    a, b = (torch.cat([g.flatten() for g in grads.values()]) for grads in (exact, rounded))
    assert torch.cosine_similarity(a, b, dim=0) > 0.99


def test_a_head_that_is_not_plain_takes_the_plain_way():
    model = small_model()
    model.get_output_embeddings().bias = torch.nn.Parameter(torch.linspace(-1, 1, VOCABULARY))
    module = SequenceLogprobs(model)
    assert not module.head_is_plain
    batch = collate_groups(Groups(), [0, 1])
    found = module(batch["input_ids"], batch["labels"], batch["lengths"], batch["shared"])
    torch.testing.assert_close(found.double(), one_by_one(model, batch), rtol=0, atol=1e-5)


def test_collate_groups_by_hand():
    groups = Groups((2, 3), (2, 2))
    batch = collate_groups(groups, [1, 0])
    assert batch["lengths"].tolist() == [6, 8, 5, 7]  # prompt 3 + answers 3 and 5; prompt 2 + answers 3 and 5
    assert batch["shared"].tolist() == [0, 3, 0, 2]
    assert batch["group"].tolist() == [0, 0, 1, 1]
    assert batch["scores"].tolist() == [2, 1, 2, 1]
    assert (batch.weight, batch.tokens, batch.rows) == (2, 26, [1, 0])
    for s, (group, k) in enumerate([(1, 0), (1, 1), (0, 0), (0, 1)]):
        ids = groups.groups[group].input_ids[k]
        assert batch["input_ids"][s, : len(ids)].equal(ids)
        assert batch["labels"][s, len(ids) :].eq(-100).all()
    nothing = collate_groups(groups, [])
    assert (nothing.weight, nothing.tokens, nothing.rows) == (0, 0, [])


def test_the_longest_sequence_of_a_group_is_what_the_model_must_read():
    groups = Groups((4,), (2,))
    assert groups.lengths == [12]  # 4 + 3 + 5: what is computed
    assert longest_sequence(groups) == 9  # 4 + 5: what has to fit into the context
    assert [len(ids) for ids, _ in sequences_of(groups, 0)] == [7, 9]


def test_gather_is_the_oracle_s_oracle():
    logits = torch.tensor([[0.0, 0.0, torch.log(torch.tensor(2.0))]])
    assert gather_logprobs(logits, torch.tensor([2])).exp().item() == pytest.approx(0.5)  # 2 / (1 + 1 + 2)
    assert causal_model(small_model(lora=True)).__class__.__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_and_temperature_are_those_of_the_plain_softmax(lora, temperature, monkeypatch):
    """Values and gradients of a function of both, through logits that exist as a whole."""
    monkeypatch.setattr(logprobs_module, "CHUNK_TOKENS_CPU", 4)
    model = small_model(lora)
    module = SequenceLogprobs(model, temperature)
    batch = collate_groups(Groups(), [0, 1, 2])
    ids, labels = batch["input_ids"], batch["labels"]
    found, entropies = module.with_entropies(ids, labels, batch["lengths"], batch["shared"], "trained")

    logits = torch.nn.functional.pad(model(input_ids=ids).logits[:, :-1] / temperature, (0, 0, 1, 0))  # at its token
    plain = torch.log_softmax(logits, dim=-1)  # (S, T, V)
    is_trained = labels != -100
    expected = plain.gather(-1, ids.unsqueeze(-1)).squeeze(-1) * is_trained
    expected_entropies = -(plain.exp() * plain).sum(-1) * is_trained
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropies, expected_entropies, rtol=0, atol=1e-5)

    def loss(logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        return (logprobs.sum(-1) ** 2).sum() + 3 * (entropy.sum(-1) ** 2).sum()

    ours, theirs = gradients(model, loss(found, entropies)), gradients(model, loss(expected, expected_entropies))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3, msg=name)


def test_an_entropy_that_is_only_measured_trains_nothing():
    model = small_model()
    batch = collate_groups(Groups(), [0])
    names = ("input_ids", "labels", "lengths", "shared")
    _, entropies = SequenceLogprobs(model).with_entropies(*(batch[name] for name in names), "measured")
    assert entropies.sum() > 0 and not entropies.requires_grad


def test_long_responses_attend_one_by_one_and_give_the_same(monkeypatch):
    """A group that is wide: a call for each response instead of one mask, with the same values and gradients."""
    model = small_model()
    module = SequenceLogprobs(model)
    batch = collate_groups(Groups(), [0, 1, 2])
    names = ("input_ids", "labels", "lengths", "shared")
    found = []
    for calls_are_free in (False, True):
        monkeypatch.setattr(flat_module, "PAIRS_OF_A_CALL", -(10**6) if calls_are_free else 10**6)
        logprobs = module(*(batch[name] for name in names))
        found.append((logprobs.detach(), gradients(model, (logprobs.sum(-1) ** 2).sum())))
    (masked, masked_gradients), (alone, alone_gradients) = found
    torch.testing.assert_close(alone, masked, rtol=0, atol=1e-5)
    for name in masked_gradients:
        torch.testing.assert_close(alone_gradients[name], masked_gradients[name], rtol=1e-4, atol=1e-4, msg=name)


def test_tensors_are_born_where_the_hidden_states_are(monkeypatch):
    """Values and gradients of both functions, where what names no device would be elsewhere."""
    monkeypatch.setattr(logprobs_module, "CHUNK_TOKENS_CPU", 2)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(5, 4, generator=generator), torch.randn(7, 4, generator=generator)
    targets, predictors = torch.tensor([1, 6, 0, 3, 3]), torch.tensor([[True, False, True], [True, True, True]])

    def everything():
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        total, hits = SummedNLL.apply(*leaves, targets, True)
        logprobs, entropies = TokenLogprobs.apply(*leaves, targets, True, "trained")
        sequence = where_they_stand(logprobs, predictors)
        (total * 0.5 + (sequence**2).sum() + entropies.exp().sum()).backward()
        return total, hits, logprobs, entropies, sequence, leaves[0].grad, leaves[1].grad

    expected = everything()
    with torch.device("meta"):
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("entropy", ["none", "measured", "trained"])
def test_token_logprobs_are_those_of_the_plain_softmax_in_double_precision(entropy, monkeypatch):
    """Any function of values and entropies, chunk by chunk, against autograd through all logits; head frozen or not."""
    monkeypatch.setattr(logprobs_module, "CHUNK_TOKENS_CPU", 3)
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, 4, generator=generator).double().requires_grad_() for n in (8, 6))
    targets = torch.randint(6, (8,), generator=generator)

    def loss(logprobs, entropies):
        slope = torch.arange(1.0, 9.0).double()
        return (slope * logprobs.double() ** 2).sum() + (0 if entropies is None else (slope * entropies.double()).sum())

    plain = (hidden @ weight.T).log_softmax(-1)
    plain_entropies = -(plain.exp() * plain).sum(-1) if entropy == "trained" else None
    expected = torch.autograd.grad(loss(plain.gather(-1, targets[:, None])[:, 0], plain_entropies), (hidden, weight))
    logprobs, entropies = TokenLogprobs.apply(hidden, weight, targets, True, entropy)
    assert (entropies is None) == (entropy == "none")
    found = torch.autograd.grad(loss(logprobs, entropies if entropy == "trained" else None), (hidden, weight))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    frozen = weight.detach()
    logprobs, entropies = TokenLogprobs.apply(hidden, frozen, targets, True, entropy)
    (alone,) = torch.autograd.grad(loss(logprobs, entropies if entropy == "trained" else None), hidden)
    torch.testing.assert_close(alone, expected[0], rtol=1e-4, atol=1e-5)
