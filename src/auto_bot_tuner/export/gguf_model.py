"""A model in GGUF: which architectures, their hyperparameters, and their tensors under GGUF's names and layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from auto_bot_tuner.utils.errors import UserError

# transformers' model_type → general.architecture. Mistral is a Llama with a window, and llama.cpp runs it as one.
ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# What the readers assume without asking: another value would be another model.
ASSUMED: dict[str, dict[str, Any]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {"hidden_act": ("silu", "swish")},
    "qwen2": {"hidden_act": ("silu", "swish")},
    "qwen3": {"hidden_act": ("silu", "swish"), "attention_bias": (False,)},
}
# The reader computes positions with these itself; of the others each has rules of its own.
ROPE_TYPES = ("default", "linear", "llama3")
BLOCK = 32  # weights that share one scale in q8_0


def check_config(config: Any) -> str:
    """GGUF's name of the architecture.

    Raises:
        UserError: it is not carried, or has a part that GGUF's readers would leave out.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    cure = "export --format safetensors instead"
    if architecture is None:
        raise UserError(
            f"GGUF export carries {', '.join(ARCHITECTURES)}, and this model is {config.model_type}: {cure}, which "
            "every architecture can, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
        )
    for field, allowed in ASSUMED[architecture].items():
        if getattr(config, field, allowed[0]) not in allowed:
            raise UserError(f"GGUF has no {architecture} with {field} = {getattr(config, field)!r}: {cure}")
    rope = rope_parameters(config).get("rope_type", "default")
    if rope not in ROPE_TYPES:
        raise UserError(f"GGUF export carries positions of type {', '.join(ROPE_TYPES)}, not {rope}: {cure}")
    return architecture


def rope_parameters(config: Any) -> dict[str, Any]:
    """How positions turn queries and keys; empty where positions are learned."""
    return dict(getattr(config, "rope_parameters", None) or {})


def context_length(config: Any) -> int:
    """Tokens that the model can see. Where attention looks back a window only, no more: the readers have none."""
    length = int(config.max_position_embeddings)
    has_window = getattr(config, "use_sliding_window", True)
    window = getattr(config, "sliding_window", None) if has_window else None
    return min(length, int(window)) if window else length


def hyperparameters(config: Any, rows: int) -> dict[str, Any]:
    """What follows `{architecture}.` in the file: name → value."""
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    shared = {
        "block_count": int(config.num_hidden_layers),
        "context_length": context_length(config),
        "embedding_length": width,
        "attention.head_count": heads,
        "vocab_size": rows,
    }
    if config.model_type == "gpt2":
        return {
            **shared,
            "feed_forward_length": int(config.n_inner or 4 * width),
            "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        }
    head = int(getattr(config, "head_dim", None) or width // heads)
    rope = rope_parameters(config)
    is_linear = rope.get("rope_type") == "linear"
    return {
        **shared,
        "feed_forward_length": int(config.intermediate_size),
        "attention.head_count_kv": int(config.num_key_value_heads),
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head,
        "rope.freq_base": float(rope.get("rope_theta", 10000.0)),
        **({"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])} if is_linear else {}),
    }


def tensors(model: Any, architecture: str, dtype: str) -> Iterator[tuple[str, Any, Any]]:
    """(name, data, type) of every tensor: an array of numbers, or of bytes where the type packs them.

    Raises:
        UserError: a weight has no name in GGUF, so the file could not be the whole model.
    """
    import gguf

    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, int(model.config.num_hidden_layers))
    head = model.get_output_embeddings().weight
    is_tied = head.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    for name, parameter in model.named_parameters(remove_duplicate=not is_tied):
        if is_tied and name.startswith("lm_head."):
            continue  # a reader without an output tensor takes the embedding
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise UserError(f"GGUF has no name for {name}: export --format safetensors instead")
        array = layout(parameter.detach(), name, model).contiguous().numpy()
        kind = stored_type(array.shape, stored, dtype)
        yield stored, packed(array, kind), kind
    if rope_parameters(model.config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", rope_factors(model), gguf.GGMLQuantizationType.F32


def layout(weight: torch.Tensor, name: str, model: Any) -> torch.Tensor:
    """A weight as GGUF has it: (out, in), and Llama's queries and keys with the two halves of a head interleaved.

    transformers turns pairs of dimensions (i, i + d/2) of a head, GGUF's llama pairs (2i, 2i + 1): the same turns, so
    rows change places. With grouped queries the keys have fewer heads.
    """
    if is_transposed(model, name):
        return weight.T
    config = model.config
    is_query, is_key = ".q_proj." in name, ".k_proj." in name
    if ARCHITECTURES[config.model_type] == "llama" and (is_query or is_key):
        heads = config.num_attention_heads if is_query else config.num_key_value_heads
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return halves.transpose(1, 2).reshape(weight.shape)
    return weight


def is_transposed(model: Any, name: str) -> bool:
    """GPT-2's Conv1D holds its matrix as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return name.endswith(".weight") and isinstance(model.get_submodule(name.removesuffix(".weight")), Conv1D)


def stored_type(shape: tuple[int, ...], name: str, dtype: str) -> Any:
    """How one tensor is stored: vectors and learned positions always whole, as llama.cpp has them."""
    from gguf import GGMLQuantizationType as Type

    if len(shape) < 2 or name.startswith("position_embd.") or dtype == "float32":
        return Type.F32
    if dtype == "q8_0":
        return Type.Q8_0 if shape[-1] % BLOCK == 0 else Type.F16  # a row that is no whole number of blocks
    return Type.F16 if dtype == "float16" else Type.BF16


def packed(array: np.ndarray, kind: Any) -> Any:
    """The numbers as they are stored; those beyond the type's range become infinite, and the check finds them."""
    import gguf

    with np.errstate(over="ignore"):
        return gguf.quants.quantize(array, kind)


@torch.no_grad()
def round_like_file(model: nn.Module, dtype: str) -> None:
    """Give the model the weights that the file holds, in place: each rounded as it is stored."""
    import gguf

    for name, parameter in model.named_parameters():
        is_position = name.endswith("wpe.weight")
        weight = parameter.T if is_transposed(model, name) else parameter
        array = weight.detach().contiguous().numpy()
        kind = stored_type(array.shape, "position_embd." if is_position else "", dtype)
        rounded = torch.from_numpy(gguf.quants.dequantize(packed(array, kind), kind).reshape(array.shape))
        parameter.copy_(rounded.T if weight is not parameter else rounded)


def rope_factors(model: Any) -> Any:
    """By how much Llama-3 slows each pair's turn: 10000^(-2i/d) (or another base) over what transformers uses."""
    rotary = model.base_model.rotary_emb.inv_freq.float()  # (d/2,)
    pairs = torch.arange(0, 2 * len(rotary), 2, dtype=torch.float32) / (2 * len(rotary))
    base = float(rope_parameters(model.config)["rope_theta"])
    return (base**-pairs / rotary).float().numpy()
