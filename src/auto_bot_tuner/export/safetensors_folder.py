"""`convert export --format safetensors`: a plain Hugging Face folder, for whatever reads those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.export.checking import (
    check_equal,
    cost_of_rounding,
    different_texts,
    fault_of,
    logits_of,
)
from auto_bot_tuner.export.folder import exported_to, write_card
from auto_bot_tuner.export.source import Loaded
from auto_bot_tuner.export.words import fact
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.saving import save_weights


def export_safetensors(loaded: Loaded, output: Path, dtype: str, trust_remote_code: bool = False) -> list[str]:
    """Write the model with its weights as `dtype`, load it back in plain transformers, compare; what was found.

    `loaded.model` has the rounded weights afterwards.

    Raises:
        UserError: the folder cannot be written, or does not read back as what was written.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    exact = logits_of(model)
    with exported_to(output) as aside:
        save_weights(model.to(getattr(torch, dtype)), tokenizer, aside)
        cost = cost_of_rounding(dtype, model.float(), exact)
        read_back, its_tokenizer = read(aside, loaded.is_reward, trust_remote_code)
        fault = fault_of(read_back, model)
        check_equal(str(output), fault)
        check_tokenizer(output, tokenizer, its_tokenizer)
        facts = [
            *merged_words(loaded),
            fact(
                "read back",
                f"every weight equal, largest logit difference {fault:.1e}, same prompts (plain transformers)",
            ),
            *rounding_words(dtype, cost),
        ]
        write_card(aside, loaded.source.path, "transformers", f"Weights {dtype}.", facts)
    return [fact("written", f"{output} ({weight_words(model, dtype)})"), *facts]


def read(folder: Path, is_reward: bool, trust_remote_code: bool) -> tuple[Any, Any]:
    """(model, tokenizer) as plain transformers loads them: no code of ours, safetensors alone."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    auto_class = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
    settings = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    with quiet_libraries():
        model = auto_class.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **settings)
        return model.eval(), AutoTokenizer.from_pretrained(folder, **settings)


def check_tokenizer(output: Path, tokenizer: Any, read_back: Any) -> None:
    """The same text becomes the same ids, conversations included."""
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    ids = PromptFormat.from_tokenizer(tokenizer).encode_prompt(chat)
    if different_texts(tokenizer, read_back) or PromptFormat.from_tokenizer(read_back).encode_prompt(chat) != ids:
        raise UserError(f"{output} was written, but its tokenizer reads back as another one, so it was deleted")


def merged_words(loaded: Loaded) -> list[str]:
    """How far the merged model is from base + adapter."""
    if loaded.merge_difference is None:
        return []
    what = "score" if loaded.is_reward else "logit"
    return [fact("merged", f"largest {what} difference to base + adapter {loaded.merge_difference:.1e}")]


def rounding_words(dtype: str, cost: float) -> list[str]:
    """What the weights' type takes away."""
    return [] if dtype == "float32" else [fact("rounding", f"{dtype} moves the logits by at most {cost:.1e}")]


def weight_words(model: Any, dtype: str) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,} weights, {dtype}"
