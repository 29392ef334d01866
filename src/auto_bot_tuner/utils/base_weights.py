"""The base model from its folder: config.json and safetensors become a module, nothing left to chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.model_source import ModelSource
from auto_bot_tuner.utils.score_head import scores_text
from auto_bot_tuner.utils.weight_files import check_finite, check_loading_report, check_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from auto_bot_tuner.training.config import ModelConfig


# What transformers raises for a config.json or weights that it cannot make a model of.
REFUSALS = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError),
    *(AssertionError, MemoryError, StrictDataclassError, SafetensorError),
)


def load_architecture(source: ModelSource, trust_remote_code: bool) -> PreTrainedConfig:
    """config.json, with every dropout rate 0: whoever trains sets it (`training/engine.py`).

    Raises:
        UserError: it cannot be read, is of no decoder, or brings code of its own that was not allowed.
    """
    from transformers import AutoConfig

    try:
        # Not None: transformers would ask on the terminal whether to run the code.
        architecture = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except REFUSALS as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{source.name} brings Python code of its own: read it, and if you trust it pass --trust-remote-code"
            ) from error
        raise cannot_be_loaded(source, error) from error
    if architecture.is_encoder_decoder:
        raise UserError(
            f"{source.name} is an encoder-decoder ({architecture.model_type}): choose a decoder-only language model "
            "(GPT-2, Llama, Qwen …)"
        )
    if not isinstance(architecture.architectures, list | tuple | None):  # the one field that nobody else looks at
        raise cannot_be_loaded(source, TypeError(f"architectures is no list, but {architecture.architectures!r:.40}"))
    # Whatever its last program wanted to be given: every pass here takes an object, and of that the logits.
    architecture.return_dict, architecture.output_attentions, architecture.output_hidden_states = True, False, False
    for field, value in vars(architecture).items():
        # GPT-2 says attn_pdrop, Llama attention_dropout, others hidden_dropout: each has its own spelling.
        if ("dropout" in field or field.endswith(("pdrop", "layerdrop"))) and type(value) in (int, float):
            setattr(architecture, field, 0.0)
    return architecture


def load_weights(
    source: ModelSource, architecture: PreTrainedConfig, config: ModelConfig, device: str
) -> PreTrainedModel:
    """The base model in `config.dtype` (float32 for all that is trained), every tensor of it from the file.

    A language model, or where config.json is of a reward model, that one with its score head.

    Raises:
        UserError: a tensor is missing, misshapen or not finite, or transformers refuses the folder.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    check_sizes(source.name, architecture, source.path)
    auto_class = AutoModelForSequenceClassification if scores_text(architecture) else AutoModelForCausalLM
    try:
        model, report = auto_class.from_pretrained(
            source.path,
            config=architecture,
            dtype=getattr(torch, config.dtype),  # unless told, transformers 5 takes the file's own
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported, and refused below, by name
            output_loading_info=True,
            **(four_bits(device) if config.load_in_4bit else {}),
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"{source.name} does not fit into the memory of {device}: use a smaller model, bfloat16 or load_in_4bit"
        ) from error
    except REFUSALS as error:
        raise cannot_be_loaded(source, error) from error
    check_loading_report(source.name, report)
    check_finite(source.name, dict(model.named_parameters()))
    # Known by its name, not by its place in this machine's cache: adapters write it down as their base.
    model.name_or_path = model.config._name_or_path = source.name
    return model


def cannot_be_loaded(source: ModelSource, error: Exception) -> UserError:
    return UserError(
        f"{source.name} cannot be loaded ({one_line(error)}): correct its config.json, or choose another model"
    )


def four_bits(device: str) -> dict[str, Any]:
    """QLoRA (Dettmers et al. 2023, arXiv 2305.14314): the frozen base in 4-bit NormalFloat, arithmetic in 16 bits."""
    from transformers import BitsAndBytesConfig

    arithmetic = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=arithmetic
    )
    return {"quantization_config": quantization, "device_map": {"": device}}
