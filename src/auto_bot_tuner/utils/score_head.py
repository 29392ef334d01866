r"""A language model that scores instead of writing: its vocabulary head is swapped for one row of numbers.

    trunk (embedding, layers, norm)  ->  hidden states (…, H)  ->  score head (1, H)  ->  one number

transformers calls such a model `…ForSequenceClassification` with one label, and so do our files: any tool opens them.
What this file makes of a causal model is that class with the *same* trunk, moved and not copied.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.model_source import ModelSource, read_adapter_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

HEAD = "score"  # what every decoder of transformers calls it
SCORES = "SEQ_CLS"  # peft's word for such a model


def scores_text(architecture: PreTrainedConfig) -> bool:
    """Whether a config.json is of a model that scores text and cannot write any."""
    return any(name.endswith("ForSequenceClassification") for name in architecture.architectures or [])


def adapter_scores_text(source: ModelSource) -> bool:
    return source.is_adapter and read_adapter_config(source.path).get("task_type") == SCORES


def has_score_head(model: nn.Module) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def with_score_head(causal: Any) -> PreTrainedModel:
    r"""The causal model's trunk under a new head, drawn with variance 1 / (H + 1).

    Then a score starts with variance about 1, as last hidden states are normed to about 1 each (Stiennon et al.
    2009.01325, app. B; Huang et al. 2403.17031, detail 11). No bias: differences of scores could not see it.

    Raises:
        UserError: transformers has no such class for this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    config, name = causal.config, causal.name_or_path
    refusal = UserError(
        f"{name} cannot be made a reward model, as transformers has no {config.model_type} with a linear score head: "
        "choose another architecture (GPT-2, Llama, Qwen, Mistral, Gemma …)"
    )
    config.num_labels = 1
    try:
        with torch.device("meta"):  # shapes without memory: nothing of it stays
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise refusal from error
    prefix, head = model.base_model_prefix, getattr(model, HEAD, None)
    if type(head) is not nn.Linear or type(getattr(model, prefix)) is not type(causal.base_model):
        raise refusal
    setattr(model, prefix, causal.base_model)
    device = causal.get_input_embeddings().weight.device
    new_head = nn.Linear(head.in_features, 1, bias=False, device=device, dtype=torch.float32)
    nn.init.normal_(new_head.weight, std=1 / math.sqrt(head.in_features + 1))
    setattr(model, HEAD, new_head)
    for mark in ("is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_quantizer", "hf_device_map"):
        if hasattr(causal, mark):  # peft asks for them
            setattr(model, mark, getattr(causal, mark))
    model.name_or_path = config._name_or_path = name
    return model.eval()


def check_one_score(model: Any, name: str) -> None:
    """A reward model has one output and a linear head.

    Raises:
        UserError: it classifies into several labels, or its head is of another kind.
    """
    head = getattr(model, HEAD, None)
    if type(head) is not nn.Linear or head.out_features != 1 or head.bias is not None:
        raise UserError(
            f"{name} is a classifier but no reward model (one linear output, read at the last token): "
            "train one with: python main.py train-reward"
        )
