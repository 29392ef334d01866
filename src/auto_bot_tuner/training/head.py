"""The model inside of its wrappers, and its output head: where logits come from, and whether by the head alone."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn


def causal_model(model: nn.Module) -> Any:
    """The transformers model inside, with its adapters where it has any (peft wraps the whole)."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def output_head(model: nn.Module) -> nn.Linear:
    return cast(nn.Linear, causal_model(model).get_output_embeddings())


@torch.no_grad()
def head_is_plain(model: nn.Module) -> bool:
    """Whether logits are just head @ hidden state, asked of the model itself on a few tokens.

    Some architectures cap or scale their logits, some heads have a bias or an adapter. A list of them would be out of
    date tomorrow. Instead a hook swaps the head's output for known, large numbers and watches its input: both must
    come through unchanged. (Comparing real logits would miss a cap as long as they are small.) Those that differ
    take the plain, slower way.
    """
    head: nn.Module = causal_model(model).get_output_embeddings()
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None:
        return False
    inputs: list[torch.Tensor] = []
    input_ids = torch.arange(6, device=head.weight.device)[None] % head.out_features  # (1, T)
    known = torch.linspace(-100, 100, head.out_features, device=head.weight.device)  # (V,)

    def swap(_: nn.Module, head_inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        inputs.append(head_inputs[0])
        return known.to(output.dtype).expand_as(output)

    was_training = model.training
    model.eval()  # dropout would make the two passes differ
    hook = head.register_forward_hook(swap)
    logits = model(input_ids=input_ids, use_cache=False).logits
    hook.remove()
    hidden = causal_model(model).base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    same_input = torch.allclose(inputs[0].float(), hidden.float(), rtol=1e-2, atol=1e-3)
    model.train(was_training)
    return same_input and torch.equal(logits, known.to(logits.dtype).expand_as(logits))
