"""What a model's folder says of itself, from its small files and the headers of its weights: no torch, no tensor."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auto_bot_tuner.utils.json_files import read_object

HEADER_LENGTH = 8  # a safetensors file opens with the length of its JSON header, as 64-bit little-endian number
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class ModelFacts:
    """What there is to know before a model is loaded. Empty or 0 where the folder does not say."""

    architecture: str  # the class in transformers: GPT2LMHeadModel; for an adapter: "LoRA adapter, rank 16"
    parameters: int
    dtype: str  # of the stored weights: F32, BF16 …; several are joined by +
    layers: int = 0
    context: int = 0  # longest text in tokens
    base: str = ""  # of an adapter: the model that it belongs to
    has_chat_template: bool = False
    is_reward_model: bool = False
    is_encoder_decoder: bool = False
    own_code: tuple[str, ...] = ()  # Python files of its repository that it wants to have run


def read_facts(folder: Path) -> ModelFacts:
    """The facts of a model's or an adapter's folder. A damaged file is one that says nothing."""
    config, adapter = read_object(folder / "config.json"), read_object(folder / "adapter_config.json")
    parameters, dtypes = _weights(folder)
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) and architectures else [config.get("model_type", "")]
    name = f"LoRA adapter, rank {adapter.get('r')}" if adapter else str(named[0])
    return ModelFacts(
        architecture=name,
        parameters=parameters,
        dtype="+".join(sorted(dtypes)),
        layers=_number(config, "num_hidden_layers", "n_layer"),
        context=_number(config, "max_position_embeddings", "n_positions"),
        base=str(adapter.get("base_model_name_or_path") or ""),
        has_chat_template=(folder / "chat_template.jinja").is_file()
        or bool(read_object(folder / "tokenizer_config.json").get("chat_template")),
        is_reward_model="SequenceClassification" in name or adapter.get("task_type") == "SEQ_CLS",
        is_encoder_decoder=config.get("is_encoder_decoder") is True,
        own_code=_own_code(config),
    )


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name → {"dtype", "shape", "data_offsets"}.

    Raises:
        ValueError: it is no safetensors file, or one that was cut.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - HEADER_LENGTH):
            raise ValueError("its header is damaged")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    header.pop("__metadata__", None)
    ends = [tensor["data_offsets"][1] for tensor in header.values()]
    if HEADER_LENGTH + length + max(ends, default=0) != size:
        raise ValueError(f"{size:,} bytes, {HEADER_LENGTH + length + max(ends, default=0):,} by its header")
    return header


def _weights(folder: Path) -> tuple[int, set[str]]:
    """(number of weights, their types) of all safetensors of the model itself."""
    count, dtypes = 0, set()
    names = ("model.safetensors", "model-*.safetensors", "adapter_model.safetensors")
    for path in sorted(path for name in names for path in folder.glob(name)):
        try:
            header = read_header(path)
            tensors = [tensor for name, tensor in header.items() if not _is_mask(name, tensor["shape"])]
            count += sum(int(math.prod(tensor["shape"])) for tensor in tensors)
            dtypes |= {str(tensor["dtype"]) for tensor in tensors}
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
            continue
    return count, dtypes


def _is_mask(name: str, shape: list[int]) -> bool:
    """The hub's gpt2 stores its causal masks among the weights; nobody counts them as parameters."""
    return name.endswith((".attn.bias", ".attn.masked_bias")) and len(shape) in (0, 4)


def _number(config: dict[str, Any], *names: str) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)


def _own_code(config: dict[str, Any]) -> tuple[str, ...]:
    """`auto_map` names classes in the repository's own Python files: {"AutoModel": "modeling_x.XModel"}."""
    wanted = config.get("auto_map")
    references = [ref for ref in wanted.values() if isinstance(ref, str)] if isinstance(wanted, dict) else []
    return tuple(sorted({f"{ref.split('--')[-1].split('.')[0]}.py" for ref in references}))
