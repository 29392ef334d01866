r"""Low-rank adapters: train a few directions of each weight matrix instead of all of it.

LoRA (Hu et al. 2021, arXiv 2106.09685) freezes W and learns

    W' = W + (alpha / r) · B A        A: (r, in), B: (out, r)

B starts at zero, so a new adapter changes nothing: the first step starts from the base model's own outputs. A and B
hold r·(in + out) numbers instead of in·out: for GPT-2 with r = 16 about 1.3 % of the model. Gradients and the
optimiser's two averages exist for those alone, which is where the memory goes in full fine-tuning.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.utils.errors import UsageError, UserError, one_line
from auto_bot_tuner.utils.model_source import ADAPTER_WEIGHTS, read_adapter_config
from auto_bot_tuner.utils.score_head import HEAD, SCORES, has_score_head
from auto_bot_tuner.utils.weight_files import check_finite, check_weight_files, listed

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from auto_bot_tuner.training.config import ModelConfig

logger = logging.getLogger(__name__)

# GPT-2: c_attn makes queries, keys and values; c_proj are the output projections of attention and MLP.
TARGETS = {"gpt2": ("c_attn", "c_proj")}


def add_adapter(model: PreTrainedModel, config: ModelConfig) -> PeftModel:
    """A fresh adapter on a frozen `model`: outputs are unchanged, only the adapter's weights are trainable.

    Of a reward model the score head is trained too, whole, and saved with the adapter: peft does so for `SEQ_CLS`.

    Raises:
        UsageError: a name in `lora_targets` fits no layer of this model.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    layers = adaptable_layers(model)
    targets = choose_targets(model.config.model_type, layers, config.lora_targets)
    # GPT-2's Conv1D stores its matrix as (in, out), a Linear as (out, in): the adapter must know which.
    is_transposed = any(isinstance(layers[name], Conv1D) for name in layers if name.split(".")[-1] in targets)
    lora = LoraConfig(
        task_type=SCORES if has_score_head(model) else "CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=whole_number(config.lora_alpha),
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=is_transposed,
    )
    return get_peft_model(model, lora)  # A and B are float32 even on a bf16 or 4-bit base


def whole_number(value: float) -> float | int:
    """32, not 32.0, in the adapter's config: other tools expect an integer there."""
    return int(value) if value == int(value) else value


def adaptable_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers by full name, without the output head: it is often the embedding itself (tied),
    and an adapter on one of the two would take them apart. A reward model's is trained as it is."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, HEAD) if has_score_head(model) else model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def choose_targets(architecture: str, layers: dict[str, nn.Module], wanted: tuple[str, ...]) -> list[str]:
    """Which layers, by their last name, get an adapter: as wanted, else GPT-2's two, else every linear layer."""
    names = sorted({name.split(".")[-1] for name in layers})
    targets = list(wanted or TARGETS.get(architecture, tuple(names)))
    unknown = [target for target in targets if target not in names]
    if unknown:
        raise UsageError(f"lora_targets: this model has no layer {unknown[0]!r}; it has {', '.join(names)}")
    return targets


def load_adapter(model: PreTrainedModel, folder: Path, config: ModelConfig) -> PeftModel:
    """The adapter saved in `folder` on its base, trainable: training goes on from its own outputs.

    Its rank, strength and targets are those it was made with; `lora_*` settings are for new adapters. Only
    dropout is taken from `config`: it is a matter of the run, not of the weights.

    Raises:
        UserError: the adapter is unreadable, or does not fit the base.
    """
    from peft import LoraConfig, PeftModel
    from safetensors import safe_open

    read_adapter_config(folder)
    check_weight_files(folder, ADAPTER_WEIGHTS)
    mismatch = f"the adapter in {folder} does not fit its base model {model.name_or_path}"
    try:
        lora = LoraConfig.from_pretrained(str(folder))
        lora.lora_dropout = config.lora_dropout
        adapted = PeftModel.from_pretrained(model, str(folder), config=lora, is_trainable=True)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:  # shapes, targets, settings
        raise UserError(
            f"{mismatch} ({one_line(error)}): was the base replaced? name the right one in its config"
        ) from error
    tensors = adapter_tensors(adapted)
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        astray = tensors.keys() ^ set(file.keys())
    if astray:  # peft only warns, and leaves what is missing at its random start
        raise UserError(f"{mismatch}: {listed(sorted(astray))} is in only one of them; copy the checkpoint again")
    check_finite(str(folder), tensors)
    logger.info("going on with the adapter of %s: r=%s, alpha=%s", folder, lora.r, lora.lora_alpha)
    return adapted


def adapter_tensors(model: PeftModel) -> dict[str, Any]:
    """What peft saves of an adapter, by the names in the file; the frozen base is not part of it."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))
