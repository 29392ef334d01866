r"""The value network: how much reward is still to be expected, at every token.

    input_ids (B, T)  ->  trunk  ->  hidden states (B, T, H)  ->  value head  ->  V (B, T)

PPO asks of each token whether the response did better with it than was to be expected *before* it. So the value that
belongs to token t + 1 is read at token t, just where its log-probability is read (`training/logprobs.py`).

The trunk is a copy of the policy's or of the reward model's, and learns apart from it. The head is V = w · h + b. From
a policy it starts at zero: an untrained network that says "I do not know" harms nobody, while random values would be
noise in every advantage (Huang et al. 2024, 2403.17031). From a reward model it starts as that model's score head with
b = -offset: the last token's value is then exactly the centred score, and earlier ones are its guess from half a
response.

With LoRA the frozen weights are not copied: policy and value network hold the *same* parameters, and each an adapter of
its own. That is safe because nothing trains them, and costs no more than the adapter.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from auto_bot_tuner.rlhf.reward_model import RewardModel
from auto_bot_tuner.training.flat import hidden_states_at, make_flat, real_tokens
from auto_bot_tuner.training.logprobs import causal_model, predicted, where_they_stand
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.saving import check_written, is_adapted
from auto_bot_tuner.utils.score_head import HEAD

VALUE_WEIGHTS = "value_network.safetensors"


class ValueNetwork(nn.Module):
    """A transformers trunk, maybe with an adapter, under a head of one number per token. Trained in float32.

    Make one with `create_value_network_from_policy` or `create_value_network_from_reward_model`.
    """

    def __init__(self, trunk: Any, head: nn.Linear) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """V (B, T), float32, each at its own token, of rows (B, T) padded on either side; 0 at padding.

        The mask is 1 at real tokens; None: there is no padding.
        """
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        # Real tokens first, in their order: right-padded rows need no mask and no positions.
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)  # (B, T)
        lengths = real.sum(dim=1)  # (B,)
        wanted = real_tokens(input_ids, lengths)  # (B, T)
        found = self.values_at(input_ids.gather(1, order), lengths, wanted)  # (N,)
        values = torch.zeros(input_ids.shape, device=found.device).masked_scatter(wanted, found)  # (B, T)
        return torch.zeros_like(values).scatter(1, order, values)  # back to where each token stood

    def values_at(
        self,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        wanted: torch.Tensor,
        shared: torch.Tensor | None = None,
        is_flat: bool = False,
    ) -> torch.Tensor:
        """V (N,), float32, at the N positions where `wanted` (B, T), row after row, of right-padded rows.

        `lengths` (B,), `shared` (B,) and `is_flat`: see `hidden_states_at`.
        """
        hidden = hidden_states_at(self.trunk, is_flat, input_ids, lengths, wanted, shared)  # (N, H)
        with torch.autocast(hidden.device.type, enabled=False):  # as scores: bfloat16 has three digits
            values: torch.Tensor = self.head(hidden.float()).squeeze(-1)
        return values

    def get_base_model(self) -> Any:
        """The transformers trunk inside, with its adapters where it has any."""
        return self.trunk

    @property
    def config(self) -> Any:
        return self.trunk.config

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Head and trunk; with LoRA head and adapter. By name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def save_pretrained(self, folder: str | Path) -> None:
        """`value_network.safetensors`: what is trained, by name; a frozen base is not part of it.

        Raises:
            UserError: the file does not read back as what was written.
        """
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.trained_parameters().items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(tensors, Path(folder) / VALUE_WEIGHTS)
        check_written(Path(folder), tensors)

    @torch.no_grad()
    def load_weights(self, folder: str | Path) -> None:
        """What `save_pretrained` wrote, in place: an optimiser keeps its parameters.

        Raises:
            UserError: the folder holds the value network of another model.
            OSError, SafetensorError: it cannot be read.
        """
        saved, trained = load_file(Path(folder) / VALUE_WEIGHTS), self.trained_parameters()
        for name in sorted(saved.keys() | trained.keys()):
            if name not in saved or name not in trained or saved[name].shape != trained[name].shape:
                raise UserError(
                    f"{folder} holds the value network of another model: {name} is not the same in both; "
                    "resume with the model and the LoRA settings of the first start"
                )
            trained[name].copy_(saved[name])


class SequenceValues(nn.Module):
    """Token ids and labels in, the value before each trained token out, where the token stands.

    The value network's counterpart of `SequenceLogprobs`: a module, so that Accelerate's wrappers see its forward.
    """

    def __init__(self, network: ValueNetwork) -> None:
        super().__init__()
        self.network = network
        trunk = network.get_base_model()
        with quiet_libraries():
            self.is_flat = make_flat(trunk, trunk.get_input_embeddings().weight.shape[0])

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        lengths: torch.Tensor,
        shared: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Right-padded input_ids and labels (S, T), lengths (S,) -> V(tokens before token t) (S, T), float32.

        0 where a label is -100. `shared` (S,): see `flat.hidden_states_at`.
        """
        wanted, _ = predicted(labels)  # (S, T): the positions before the trained tokens
        found = self.network.values_at(input_ids, lengths, wanted, shared, self.is_flat)  # (N,)
        return where_they_stand(found, wanted)


def create_value_network_from_policy(policy: nn.Module) -> ValueNetwork:
    """The policy's architecture and weights, independent of it, under a head of zeros: every first value is 0.

    A LoRA policy's adapter is copied and trained; its frozen base is shared, not copied.
    """
    causal = causal_model(policy)
    hidden_size = causal.get_output_embeddings().weight.shape[1]  # what a head reads here, whatever the config calls it
    zeros = torch.zeros(1, hidden_size, device=causal.device)
    return ValueNetwork(trainable_copy(policy), value_head(zeros, 0.0)).eval()


def create_value_network_from_reward_model(reward_model: RewardModel) -> ValueNetwork:
    """The reward model's trunk and head, as copies: the value of a row's last token is its score.

    Of an adapted one the adapter is copied and trained, and the frozen base shared; any other is trained whole.

    Raises:
        UsageError: several reward models, another kind of reward, or 4-bit weights without an adapter.
    """
    if not isinstance(reward_model, RewardModel):
        raise UsageError(
            f"a value network starts from one reward model, not from a {type(reward_model).__name__}: "
            "set value_from policy"
        )
    model = reward_model.model
    head = getattr(reward_model.get_base_model(), HEAD)
    if hasattr(head, "modules_to_save"):  # peft keeps the trained head beside the one that it began with
        head = head.modules_to_save[model.active_adapter]
    return ValueNetwork(trainable_copy(model), value_head(head.weight, -reward_model.offset)).eval()


@torch.no_grad()
def value_head(weight: torch.Tensor, bias: float) -> nn.Linear:
    """V = w · h + b in float32, with w (1, H). The bias learns the mean return, of which scores know nothing."""
    head = nn.Linear(weight.shape[1], 1, device=weight.device, dtype=torch.float32)
    head.weight.copy_(weight)
    head.bias.fill_(bias)
    return head


def trainable_copy(model: nn.Module) -> Any:
    """A copy of the trunk inside a model; of an adapted one the adapter is copied, and the rest is the same parameters.

    Raises:
        UsageError: there is no adapter, and 4-bit weights cannot be trained.
    """
    trunk = causal_model(model).base_model
    if not is_adapted(model):
        if getattr(causal_model(model), "is_loaded_in_4bit", False):
            raise UsageError("4-bit weights cannot be trained: load them with use_lora, or in another dtype")
        return copy.deepcopy(trunk).float().requires_grad_(True)
    adapter = adapter_parameters(trunk, model.active_adapter)  # type: ignore[arg-type]  # peft has no types
    own = {id(p) for p in adapter.values()}
    # `deepcopy` takes what stands in its memo as copied already.
    copied = copy.deepcopy(trunk, {id(p): p for p in trunk.parameters() if id(p) not in own})
    for p in adapter_parameters(copied, model.active_adapter).values():  # type: ignore[arg-type]
        p.data = p.data.float()
        p.requires_grad_(True)
    return copied


def adapter_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """What peft added under this adapter's name: A and B of each layer, and modules that are trained whole."""

    def belongs(name: str) -> bool:
        steps = name.split(".")  # … c_attn, lora_A, default, weight
        return any(
            step == adapter and (kind.startswith("lora_") or kind == "modules_to_save")
            for kind, step in itertools.pairwise(steps)
        )

    return {name: p for name, p in model.named_parameters() if belongs(name)}
