"""Models, tokenizers, devices: `load_model_and_tokenizer` is the one way in.

It turns a name into (model, tokenizer, device), ready to train: trainable weights in float32, a pad token, the
prompt format installed, dropout off, an adapter where one is wanted or was saved. Where files come from is
`model_source.py`, whether they can be trusted `weight_files.py`, how they become a module `base_weights.py`, adapters
`lora.py`, the way back to disk `saving.py`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.utils.base_weights import load_architecture, load_weights
from auto_bot_tuner.utils.device import choose_device, get_device
from auto_bot_tuner.utils.errors import UsageError, UserError, one_line
from auto_bot_tuner.utils.lora import add_adapter, load_adapter
from auto_bot_tuner.utils.model_source import ModelSource, find_base, find_model
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.score_head import adapter_scores_text, scores_text
from auto_bot_tuner.utils.stop_tokens import with_stop_tokens
from auto_bot_tuner.utils.weight_files import check_weight_files

__all__ = ["get_device", "load_from_config", "load_model_and_tokenizer"]

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase, str]


def load_model_and_tokenizer(
    model: str | Path,
    device: str | None = None,
    use_lora: bool = False,
    *,
    lora_r: int = ModelConfig.lora_r,
    lora_alpha: float = ModelConfig.lora_alpha,
    lora_dropout: float = ModelConfig.lora_dropout,
    lora_targets: tuple[str, ...] = ModelConfig.lora_targets,
    dtype: str = ModelConfig.dtype,
    load_in_4bit: bool = ModelConfig.load_in_4bit,
    chat_template: str = ModelConfig.chat_template,
    trust_remote_code: bool = ModelConfig.trust_remote_code,
    frozen: bool = False,
) -> Loaded:
    """Load a model to train or to talk to. The settings are those of `ModelConfig`, one for one.

    Args:
        model: hub id, local folder, run folder, LoRA checkpoint folder, or a bundled name such as `tiny`.
        device: "cuda", "mps", "cpu"; None or "auto" takes the best there is.
        use_lora: freeze the weights and put a new adapter on them. A LoRA checkpoint keeps its own adapter either way.
        frozen: nothing of it will be trained (evaluation, a reference): then all of it may have another `dtype`.

    Returns:
        (model, tokenizer, device): trainable weights float32 on `device`, in eval mode.

    Raises:
        UserError: the model cannot be had or cannot be used; the message says why, and what to do.
        UsageError: settings that contradict each other.
    """
    config = ModelConfig(
        name=str(model),
        use_lora=use_lora,
        lora_r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        lora_targets=tuple(lora_targets),
        dtype=dtype,  # type: ignore[arg-type]  # pydantic refuses any other word
        load_in_4bit=load_in_4bit,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    loaded = load(config, choose_device(device), frozen)
    if frozen:
        loaded[0].requires_grad_(False)
    return loaded


def load_from_config(config: ModelConfig) -> Loaded:
    """`load_model_and_tokenizer` for the `model` section of a run's config."""
    return load(config, choose_device(config.device))


def load(config: ModelConfig, device: str, frozen: bool = False) -> Loaded:
    source = find_model(config.name, config.trust_remote_code)
    base = find_base(source, config.trust_remote_code) if source.is_adapter else source
    check_frozen_settings(config, has_frozen_base=frozen or config.use_lora or source.is_adapter)
    with quiet_libraries():
        architecture = load_architecture(base, config.trust_remote_code)
        if scores_text(architecture) or adapter_scores_text(source):
            raise UserError(
                f"{source.name} is a reward model: it scores text and writes none; name a language model here, such as "
                "the one that it was trained from"
            )
        check_weight_files(base.path)
        tokenizer = load_tokenizer(source if source.has_tokenizer else base, config)
        model = load_weights(base, architecture, config, device)
        check_vocabulary(source.name, tokenizer, model)
        model.config.pad_token_id = tokenizer.pad_token_id
        model.generation_config = with_stop_tokens(model, tokenizer)
        if source.is_adapter:
            model = load_adapter(model, source.path, config)
        elif config.use_lora:
            model = add_adapter(model, config)
    return model.to(device).eval(), tokenizer, device


def load_tokenizer(source: ModelSource, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer with a pad token and with its prompt format, which every later save carries on.

    Raises:
        UserError: it is missing, damaged, or has no end-of-text token to train a model to stop by.
    """
    from transformers import AutoTokenizer

    from auto_bot_tuner.data.prompt_format import PromptFormat

    if not source.has_tokenizer:  # transformers would make one up, with an empty vocabulary
        raise UserError(
            f"{source.name} holds no tokenizer (tokenizer.json): copy that of its base model into the folder"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # transformers' of all kinds, and bare Exception of the tokenizers library (Rust)
        raise UserError(f"the tokenizer of {source.name} cannot be read ({one_line(error)}): copy it again") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's word for what it did not expect in tokenizer.json
            raise
        raise UserError(f"the tokenizer of {source.name} is damaged ({one_line(error)}): copy it again") from error
    if tokenizer.eos_token is None:
        raise UserError(
            f"the tokenizer of {source.name} has no end token (eos_token), so no answer could end: "
            "name one of its tokens as eos_token in tokenizer_config.json"
        )
    if not isinstance(tokenizer.model_max_length, int | float):  # 1e30 stands for "no limit"
        raise UserError(f"the tokenizer of {source.name} has a model_max_length that is no number: copy it again")
    if tokenizer.pad_token is None:
        # Batches need some filler. Nothing may tell padding by this id (rule 2): the real end token has it too.
        tokenizer.pad_token = tokenizer.eos_token
    PromptFormat.from_tokenizer(tokenizer, config.chat_template).install(tokenizer)
    return tokenizer


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Every token has a row in the embedding: an id beyond it is an index error deep inside the first step."""
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise UserError(
            f"{name}: the tokenizer has ids up to {largest}, the model's embedding only {rows} rows: use the tokenizer "
            "that belongs to the model, or resize it once with model.resize_token_embeddings(len(tokenizer))"
        )


def check_frozen_settings(config: ModelConfig, has_frozen_base: bool) -> None:
    """`dtype` and 4 bits are for weights that do not train.

    A bfloat16 number has 8 bits of mantissa: it cannot move by less than 1/256 of itself, and with a learning rate
    of 1e-6 about 98 % of the weights would never move. Lower precision of the arithmetic is `precision: bf16`.
    """
    if not has_frozen_base and config.load_in_4bit:
        raise UsageError("load_in_4bit freezes the weights, so it needs LoRA: set use_lora, or leave load_in_4bit off")
    if not has_frozen_base and config.dtype != "float32":
        raise UsageError(
            f"dtype {config.dtype} is for frozen weights, and without LoRA all are trained, in float32: "
            "set use_lora, or leave dtype and use training precision bf16"
        )
    if config.load_in_4bit and not torch.cuda.is_available():
        raise UserError(
            "load_in_4bit needs an NVIDIA or AMD GPU, and there is none here: leave it off (LoRA alone works)"
        )
    if config.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("load_in_4bit needs bitsandbytes: install it with: uv pip install bitsandbytes")
