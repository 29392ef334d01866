"""Value networks: where a value is read, what it is at first, whose weights it holds, what a folder gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from auto_bot_tuner.rlhf import (
    RewardEnsemble,
    RewardModel,
    ValueNetwork,
    create_reward_model_from_pretrained,
    create_value_network_from_policy,
    create_value_network_from_reward_model,
)
from auto_bot_tuner.rlhf.value_network import VALUE_WEIGHTS, SequenceValues, adapter_parameters
from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.training.logprobs import SequenceLogprobs
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.lora import add_adapter
from auto_bot_tuner.utils.score_head import with_score_head
from tests.models import tiny_model
from tests.reward_runs import save_byte_model

FAMILIES = ("gpt2", "llama", "qwen2")
WORDS = 97
ROWS = [[11, 12, 13, 0], [21, 22, 23, 24, 25, 26, 0], [31, 0, 33], [41]]
LENGTHS = torch.tensor([len(row) for row in ROWS])


def policy_of(family: str, lora: bool = False) -> Any:
    model = tiny_model(family, vocab_size=WORDS, bos_token_id=0, eos_token_id=0)
    return shaken(add_adapter(model, ModelConfig(name="tiny", lora_r=4))) if lora else model


def shaken(model: Any, seed: int = 1) -> Any:
    """Trained weights, as if they had been trained: LoRA's B is no longer zero, nor is the value head."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return model


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """ROWS and their mask, padded with an id that is a real token elsewhere."""
    longest = max(map(len, ROWS))
    fills = [[0] * (longest - len(row)) for row in ROWS]
    ids = [row + fill if side == "right" else fill + row for row, fill in zip(ROWS, fills, strict=True)]
    positions, ends = torch.arange(longest), LENGTHS[:, None]
    return torch.tensor(ids), (positions < ends if side == "right" else positions >= longest - ends).long()


def by_hand(network: ValueNetwork, row: list[int]) -> torch.Tensor:
    """w · h + b of one row without padding, from the trunk's plain forward."""
    hidden = network.trunk(input_ids=torch.tensor([row])).last_hidden_state[0]  # (T, H)
    return (hidden * network.head.weight[0]).sum(dim=-1) + network.head.bias


# ---- where a value is read ----


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padding_changes_no_value_and_has_none(family: str, lora: bool) -> None:
    network = shaken(create_value_network_from_policy(policy_of(family, lora)))
    for side in ("left", "right"):
        ids, mask = padded(side)
        values = network(ids, mask)
        assert values.shape == ids.shape and values.dtype == torch.float32
        assert torch.equal(values[mask == 0], torch.zeros(int((mask == 0).sum())))
        for row, found, real in zip(ROWS, values, mask, strict=True):
            assert torch.allclose(found[real == 1], by_hand(network, row), atol=1e-5)
    alone = torch.tensor(ROWS[1:2])
    assert torch.allclose(network(alone)[0], by_hand(network, ROWS[1]), atol=1e-5)  # no mask: no padding


@torch.no_grad()
def test_a_value_knows_nothing_of_what_comes_after() -> None:
    network = shaken(create_value_network_from_policy(policy_of("llama")))
    one, other = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[5, 6, 7, 50, 60]])
    assert torch.equal(network(one)[:, :3], network(other)[:, :3])
    assert not torch.allclose(network(one)[:, 3:], network(other)[:, 3:])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_value_of_a_trained_token_is_that_of_the_state_before_it(family: str) -> None:
    policy = policy_of(family)
    network = shaken(create_value_network_from_policy(policy))
    ids, mask = padded("right")
    labels = torch.where(mask == 1, ids, -100)
    labels[:, :2] = -100  # the prompt: rows 3 and 4 have one trained token, and none
    found = SequenceValues(network)(ids, labels, LENGTHS)  # (S, T)
    everywhere = network(ids, mask)
    for s, row in enumerate(ROWS):
        for t in range(ids.shape[1]):
            expected = everywhere[s, t - 1] if 2 <= t < len(row) else torch.tensor(0.0)
            assert torch.allclose(found[s, t], expected, atol=1e-5)
    # Where there is a log-probability there is a value: the two are subtracted token by token.
    assert torch.equal(found != 0, SequenceLogprobs(policy)(ids, labels, LENGTHS) != 0)


@torch.no_grad()
def test_a_shared_prompt_is_computed_once_and_gives_the_same_values() -> None:
    module = SequenceValues(shaken(create_value_network_from_policy(policy_of("llama"))))
    assert module.is_flat
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 20, 0]])
    labels = torch.tensor([[-100, -100, -100, 8, 9], [-100, -100, -100, 20, -100]])
    lengths = torch.tensor([5, 4])
    together = module(ids, labels, lengths, torch.tensor([0, 3]))
    assert torch.allclose(together, module(ids, labels, lengths), atol=1e-5)


@torch.no_grad()
def test_the_head_is_float32_under_autocast() -> None:
    network = create_value_network_from_policy(policy_of("llama"))
    network.head.bias.fill_(2.003)  # which bfloat16 rounds to 2
    with torch.autocast("cpu", torch.bfloat16):
        values = network(torch.tensor([ROWS[0]]))
    assert torch.equal(values, torch.full((1, 4), 2.003))


# ---- what it starts as ----


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_first_values_are_zero_and_the_head_learns(family: str, lora: bool) -> None:
    network = create_value_network_from_policy(policy_of(family, lora))
    ids, mask = padded("right")
    values = network(ids, mask)
    assert torch.equal(values, torch.zeros(ids.shape))
    ((values - 1) ** 2)[mask == 1].mean().backward()
    assert network.head.weight.grad is not None and network.head.weight.grad.abs().sum() > 0
    # One step away from zero the trunk learns too, every weight of it that a value can depend on.
    shaken(network).zero_grad()
    ((network(ids, mask) - 1) ** 2).mean().backward()
    for name, p in network.trained_parameters().items():
        assert p.dtype == torch.float32
        assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_from_a_reward_model_the_last_value_is_the_score(family: str) -> None:
    reward_model = RewardModel(with_score_head(policy_of(family)))
    reward_model.offset = 0.75
    reward_model.requires_grad_(False)  # as `load_reward_model` hands it over
    network = create_value_network_from_reward_model(reward_model)
    for side in ("left", "right"):
        ids, mask = padded(side)
        last = network(ids, mask)[torch.arange(len(ROWS)), LENGTHS - 1 if side == "right" else -1]
        assert torch.allclose(last, reward_model(ids, mask), atol=1e-6)
    assert set(network.trained_parameters()) == {name for name, _ in network.named_parameters()}
    shaken(network)
    assert not any(p.requires_grad for p in reward_model.parameters())
    assert not torch.allclose(network(ids, mask)[:, -1], reward_model(ids, mask), atol=1e-3)


def test_from_an_adapted_reward_model_adapter_and_trained_head_are_copied(tmp_path: Path) -> None:
    folder = save_byte_model(tmp_path / "base", "llama")
    reward_model = shaken(create_reward_model_from_pretrained(folder, device="cpu", use_lora=True, lora_r=4))
    reward_model.offset = -0.5
    network = create_value_network_from_reward_model(reward_model)
    ids, mask = padded("left")
    with torch.no_grad():
        assert torch.allclose(network(ids, mask)[:, -1], reward_model(ids, mask), atol=1e-6)
        before = reward_model(ids, mask)
        shaken(network)
        assert torch.equal(reward_model(ids, mask), before)
    names = set(network.trained_parameters())
    assert {"head.weight", "head.bias"} < names
    assert all(".lora_" in name for name in names - {"head.weight", "head.bias"})


def test_other_rewards_are_refused_with_the_cure() -> None:
    reward_model = RewardModel(with_score_head(policy_of("llama")))
    for other in (RewardEnsemble([reward_model]), lambda prompt, response: 1.0):
        with pytest.raises(UsageError, match=r"one reward model.*value_from policy"):
            create_value_network_from_reward_model(other)  # type: ignore[arg-type]


# ---- whose weights ----


def test_a_full_copy_shares_nothing_with_the_policy() -> None:
    policy = policy_of("gpt2")
    network = create_value_network_from_policy(policy)
    assert not {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in network.parameters()}
    before = [p.clone() for p in policy.parameters()]
    shaken(network)
    assert all(torch.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_copy_shares_what_is_frozen_and_only_that(family: str) -> None:
    policy = policy_of(family, lora=True)
    network = create_value_network_from_policy(policy)
    policys = {p.data_ptr(): p for p in policy.parameters()}
    for name, p in network.named_parameters():
        if p.requires_grad:
            assert p.data_ptr() not in policys, name
            assert name.startswith("head.") or ".lora_" in name
        else:
            assert p is policys[p.data_ptr()], name
    # The adapter is the policy's, weight by weight; and the two go apart from there.
    theirs = adapter_parameters(policy.get_base_model().base_model, "default")
    ours = adapter_parameters(network.trunk, "default")
    assert ours and {name: p.tolist() for name, p in ours.items()} == {name: p.tolist() for name, p in theirs.items()}
    before = policy(torch.tensor([ROWS[0]])).logits
    shaken(network)
    assert torch.equal(policy(torch.tensor([ROWS[0]])).logits, before)


def test_a_policy_that_was_loaded_to_be_read_still_gives_a_value_network_to_train() -> None:
    policy = policy_of("llama", lora=True).requires_grad_(False)
    trained = create_value_network_from_policy(policy).trained_parameters()
    assert len(trained) == 2 + len(adapter_parameters(policy, "default"))
    half = policy_of("llama").to(torch.bfloat16).requires_grad_(False)
    network = create_value_network_from_policy(half)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


# ---- folders ----


@pytest.mark.parametrize("lora", [False, True])
@torch.no_grad()
def test_a_folder_gives_the_same_values_back_in_place(lora: bool, tmp_path: Path) -> None:
    network = shaken(create_value_network_from_policy(policy_of("llama", lora)))
    network.save_pretrained(tmp_path)
    assert load_file(tmp_path / VALUE_WEIGHTS).keys() == network.trained_parameters().keys()
    fresh = create_value_network_from_policy(policy_of("llama", lora))
    parameters = list(fresh.parameters())
    fresh.load_weights(tmp_path)
    ids, mask = padded("right")
    assert torch.equal(fresh(ids, mask), network(ids, mask))
    assert all(old is new for old, new in zip(parameters, fresh.parameters(), strict=True))


def test_the_folder_of_another_value_network_is_refused(tmp_path: Path) -> None:
    create_value_network_from_policy(policy_of("llama")).save_pretrained(tmp_path)
    for other in (
        policy_of("llama", lora=True),
        tiny_model("llama", vocab_size=WORDS - 1, bos_token_id=0, eos_token_id=0),
    ):
        with pytest.raises(UserError, match="another model"):
            create_value_network_from_policy(other).load_weights(tmp_path)


def test_both_spellings_are_the_same_objects() -> None:
    from src.auto_bot_tuner.rlhf import ValueNetwork as spelled_out
    from src.auto_bot_tuner.rlhf import create_value_network_from_policy as create

    assert spelled_out is ValueNetwork and create is create_value_network_from_policy
    network = create(policy_of("gpt2"))
    assert isinstance(network, ValueNetwork) and isinstance(network.trunk, type(AutoModel.from_config(network.config)))
