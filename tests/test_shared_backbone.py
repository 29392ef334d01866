"""One frozen base for four models: each computes and learns what it would alone, in a third of the memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from auto_bot_tuner.dpo import create_reference_model
from auto_bot_tuner.rlhf import (
    PPOConfig,
    RewardEnsemble,
    RewardModel,
    ValueNetwork,
    create_reward_model_from_pretrained,
    create_value_network_from_policy,
    create_value_network_from_reward_model,
    load_reward_model,
    share_backbone,
)
from auto_bot_tuner.rlhf.shared_backbone import bytes_of
from auto_bot_tuner.rlhf.value_network import SequenceValues
from auto_bot_tuner.training.batching import Batch
from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.training.engine import prepare_model
from auto_bot_tuner.training.logprobs import SequenceLogprobs, causal_model
from auto_bot_tuner.training.reference import build_reference
from auto_bot_tuner.utils import saving
from auto_bot_tuner.utils.lora import add_adapter
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from auto_bot_tuner.utils.score_head import with_score_head
from tests.models import tiny_model
from tests.reward_runs import EOS, save_byte_model
from tests.test_value_network import shaken

FAMILIES = ("gpt2", "llama", "qwen2")
IDS = torch.tensor([[11, 12, 13, 14, 15, EOS], [21, 22, 23, EOS, 0, 0]])
LABELS = torch.tensor([[-100, -100, 13, 14, 15, EOS], [-100, 22, 23, EOS, -100, -100]])
LENGTHS = torch.tensor([6, 4])
BATCH = Batch({"input_ids": IDS, "labels": LABELS, "lengths": LENGTHS, "shared": torch.tensor([0, 0])}, 7.0, 10, [0, 1])


class Four:
    """Policy, value network, reward model and reference, as PPO has them with LoRA."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds a language model; the reward model is an adapter on it, trained elsewhere and loaded."""
        policy, self.tokenizer, _ = load_model_and_tokenizer(folder, device="cpu", use_lora=True, lora_r=4)
        self.policy = shaken(policy)
        self.value_network: ValueNetwork = shaken(create_value_network_from_policy(policy), seed=2)
        trained = shaken(create_reward_model_from_pretrained(folder, device="cpu", use_lora=True, lora_r=8), seed=3)
        trained.offset = 0.25
        trained.save_pretrained(folder.parent / "reward")
        self.reward_model = load_reward_model(folder.parent / "reward", device="cpu")[0]
        self.reference = create_reference_model(self.policy)

    def others(self) -> tuple[nn.Module, ...]:
        return self.value_network, self.reward_model, self.reference

    def outputs(self) -> dict[str, torch.Tensor]:
        return {
            "logprobs": SequenceLogprobs(self.policy)(IDS, LABELS, LENGTHS),
            "values": SequenceValues(self.value_network)(IDS, LABELS, LENGTHS),
            "scores": self.reward_model(IDS, (LENGTHS[:, None] > torch.arange(6)).long()),
            "reference": SequenceLogprobs(self.reference)(IDS, LABELS, LENGTHS),
        }

    def gradients(self) -> dict[str, torch.Tensor]:
        """Of a loss in which both trained models have their part, by whose weight it is."""
        found = self.outputs()
        ((found["logprobs"] * found["values"].detach()).sum() + (found["values"] ** 2).sum()).backward()
        whose = {"policy": self.policy, "value": self.value_network}
        return {
            f"{who} {name}": p.grad.clone()
            for who, model in whose.items()
            for name, p in model.named_parameters()
            if p.grad is not None
        }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_byte_model(tmp_path_factory.mktemp(family) / "base", family) for family in FAMILIES}


def apart(four: Four) -> Four:
    """Copies that share nothing: what each model is alone."""
    alone = copy.copy(four)
    for name in ("policy", "value_network", "reward_model", "reference"):
        setattr(alone, name, copy.deepcopy(getattr(four, name)))
    return alone


# ---- the same numbers ----


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_is_separate(family: str, checkpointing: bool, folders: dict[str, Path]) -> None:
    four = Four(folders[family])
    alone = apart(four)
    assert share_backbone(four.policy, *four.others()) > 0
    if checkpointing:  # recomputes activations in the backward pass, after other models have run
        for model in (four.policy, four.value_network):
            prepare_model(model.train(), PPOConfig(gradient_checkpointing=True))
    expected, found = alone.outputs(), four.outputs()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6), name
    expected, found = alone.gradients(), four.gradients()
    assert expected.keys() == found.keys()
    trained = [name for name, p in four.policy.named_parameters() if p.requires_grad]
    assert len(found) == len(trained) + len(four.value_network.trained_parameters())
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-5), name


def test_training_moves_policy_and_value_network_and_nothing_else(folders: dict[str, Path]) -> None:
    four = Four(folders["llama"])
    share_backbone(four.policy, *four.others())
    trained = [p for p in four.policy.parameters() if p.requires_grad] + list(
        four.value_network.trained_parameters().values()
    )
    assert len({id(p) for p in trained}) == len(trained)  # none is trained twice
    before, base = four.outputs(), causal_model(four.policy).base_model.embed_tokens.weight.clone()
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    four.gradients()
    optimizer.step()
    after = four.outputs()
    assert torch.equal(causal_model(four.policy).base_model.embed_tokens.weight, base)
    assert torch.equal(after["scores"], before["scores"]) and torch.equal(after["reference"], before["reference"])
    assert not torch.allclose(after["values"], before["values"], atol=1e-3)
    assert not torch.allclose(after["logprobs"], before["logprobs"], atol=1e-3)


@pytest.mark.parametrize("kind", ["adapter_off", "adapter_copy"])
def test_a_reference_inside_of_the_policy_freezes_no_value_network(kind: str, folders: dict[str, Path]) -> None:
    """peft makes trainable what is on and freezes what is off: only the policy's adapters are within its reach."""
    four = Four(folders["llama"])
    share_backbone(four.policy, *four.others())
    names = set(four.value_network.trained_parameters())
    reference = build_reference(kind, four.policy, None)
    assert reference is not None
    values = SequenceValues(four.value_network)(IDS, LABELS, LENGTHS)
    reference.logprobs(BATCH)  # between forward and backward of the value network
    (values**2).sum().backward()
    assert set(four.value_network.trained_parameters()) == names
    assert all(p.grad is not None for p in four.value_network.trained_parameters().values())


def test_the_policys_folder_holds_its_own_adapter_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    four = Four(folders["llama"])
    saving.save_weights(four.policy, four.tokenizer, tmp_path / "before")
    share_backbone(four.policy, *four.others())
    saving.save_weights(four.policy, four.tokenizer, tmp_path / "after")
    before, after = (load_file(tmp_path / when / "adapter_model.safetensors") for when in ("before", "after"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(p.name for p in (tmp_path / "after").iterdir()) == sorted(
        p.name for p in (tmp_path / "before").iterdir()
    )


# ---- what is shared ----


def test_what_is_trained_on_either_side_is_never_shared(folders: dict[str, Path]) -> None:
    folder = folders["llama"]
    policy, _, _ = load_model_and_tokenizer(folder, device="cpu")  # no LoRA: trains every weight
    reward_model = RewardModel(with_score_head(load_model_and_tokenizer(folder, device="cpu")[0]))
    assert share_backbone(policy, reward_model.requires_grad_(False)) == 0
    parameter_bytes = sum(p.nbytes for p in policy.base_model.parameters())
    adapted = add_adapter(policy, ModelConfig(name="tiny"))
    assert share_backbone(adapted, reward_model.requires_grad_(True)) == 0
    # Frozen on both sides: a head that was trained alone on the same trunk.
    assert share_backbone(adapted, reward_model.requires_grad_(False)) == parameter_bytes


def test_another_base_stays_beside_this_one(folders: dict[str, Path]) -> None:
    four = Four(folders["llama"])
    trunk = four.reward_model.get_base_model().base_model
    for p in trunk.parameters():  # fine-tuned in between, every weight by a little
        p.data *= 1 + 1e-6
    mask = torch.ones_like(IDS)
    before = four.reward_model(IDS, mask)
    share_backbone(four.policy, four.reward_model)
    assert not {id(p) for p in trunk.parameters()} & {id(p) for p in four.policy.parameters()}
    assert torch.equal(four.reward_model(IDS, mask), before)
    # In another type it is another base, too.
    assert share_backbone(four.policy, copy.deepcopy(four.reference).to(torch.bfloat16)) == 0


def test_every_member_of_an_ensemble_shares(folders: dict[str, Path]) -> None:
    four = Four(folders["llama"])
    ensemble = RewardEnsemble([four.reward_model, copy.deepcopy(four.reward_model)])
    before = ensemble(IDS)
    trunk = tiny_model("llama", vocab_size=EOS + 1, bos_token_id=EOS, eos_token_id=EOS).base_model
    assert share_backbone(four.policy, ensemble) == 2 * sum(p.nbytes for p in trunk.parameters())
    assert torch.equal(ensemble(IDS), before)


def test_a_value_network_from_the_reward_model_shares_too(folders: dict[str, Path]) -> None:
    four = Four(folders["gpt2"])
    value_network = create_value_network_from_reward_model(four.reward_model)
    share_backbone(four.policy, value_network, four.reward_model)
    wte = causal_model(four.policy).transformer.wte.weight
    assert value_network.trunk.wte.weight is wte
    assert four.reward_model.get_base_model().transformer.wte.weight is wte
    assert torch.allclose(value_network(IDS)[:, -1], four.reward_model(IDS), atol=1e-6)


# ---- the memory ----


def four_of(config: GPT2Config, r: int) -> tuple[int, int, list[nn.Module]]:
    """Bytes of one plain model, of four unshared, and the four, each with a base of its own at first."""
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(config)
    one, lora = bytes_of(plain), ModelConfig(name="gpt2", use_lora=True, lora_r=r)
    reward_model = RewardModel(add_adapter(with_score_head(copy.deepcopy(plain)), lora)).requires_grad_(False)
    policy = add_adapter(plain, lora)
    models = [policy, create_value_network_from_policy(policy), reward_model, create_reference_model(policy)]
    return one, bytes_of(*models), models


def test_four_models_take_little_more_memory_than_one() -> None:
    one, before, models = four_of(
        GPT2Config(vocab_size=5000, n_embd=256, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0), r=8
    )
    freed = share_backbone(*models)
    after = bytes_of(*models)
    print(f"one model {one / 1e6:.1f} MB; four {before / 1e6:.1f}, shared {after / 1e6:.1f}: {after / one:.3f} x one")
    assert after == before - freed
    assert before > 2.9 * one  # the value network has shared the policy's base from its beginning
    assert after <= 1.3 * one


# ---- the four-model pattern, as the users' documents have it ----


@pytest.mark.parametrize("lora", [False, True])
def test_four_models_from_one_policy(lora: bool, folders: dict[str, Path]) -> None:
    from src.auto_bot_tuner.dpo import create_reference_model
    from src.auto_bot_tuner.rlhf import create_reward_model_from_pretrained, create_value_network_from_policy
    from src.auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    policy_model, tokenizer, device = load_model_and_tokenizer(str(folders["gpt2"]), device="cpu", use_lora=lora)
    ref_model = create_reference_model(policy_model, device)
    reward_model = create_reward_model_from_pretrained(str(folders["gpt2"]), tokenizer, device)
    value_net = create_value_network_from_policy(policy_model)

    rows = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(policy_model(**rows).logits, ref_model(**rows).logits)
    assert torch.equal(value_net(**rows), torch.zeros(IDS.shape))
    assert reward_model(**rows).shape == (2,)
    # Policy and value network train, and no weight belongs to both; the reference is frozen.
    trained = [{id(p) for p in model.parameters() if p.requires_grad} for model in (policy_model, value_net, ref_model)]
    assert trained[0] and trained[1] and not trained[0] & trained[1] and not trained[2]
