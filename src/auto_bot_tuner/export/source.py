"""What is exported: a checkpoint of any kind as one whole model, float32 on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.model_source import ModelSource, find_model


@dataclass
class Loaded:
    """A model to export, nothing on it to be trained any more."""

    source: ModelSource
    model: Any  # of transformers, no adapter left: float32, on the CPU, in eval mode
    tokenizer: Any
    is_reward: bool
    # max |logits(adapted) − logits(merged)|; None where there was no adapter
    merge_difference: float | None = None

    @property
    def vocabulary_rows(self) -> int:
        """Rows of the embedding: every token has one, and some have no token."""
        return int(self.model.get_input_embeddings().weight.shape[0])


def load(name: str, trust_remote_code: bool = False, chat_template: str = "") -> Loaded:
    """The model called `name`: a language model or a reward model; an adapter is added into its base.

    Raises:
        UserError: it cannot be had or cannot be used.
    """
    from auto_bot_tuner.rlhf.reward_model import is_reward_model, load_reward_model
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
    from auto_bot_tuner.utils.saving import is_adapted, largest_logit_difference, merge

    source = find_model(name, trust_remote_code)
    config = ModelConfig(name=name, use_lora=False, trust_remote_code=trust_remote_code)
    is_reward = is_reward_model(source, config)
    if is_reward:
        reward_model, tokenizer, _ = load_reward_model(name, "cpu", trust_remote_code=trust_remote_code)
        model = reward_model.model
    else:
        model, tokenizer, _ = load_model_and_tokenizer(
            name, "cpu", chat_template=chat_template, trust_remote_code=trust_remote_code, frozen=True
        )
    if not is_adapted(model):
        return Loaded(source, model, tokenizer, is_reward)
    merged = merge(model)
    return Loaded(source, merged, tokenizer, is_reward, largest_logit_difference(model, merged))


def check_is_adapter(name: str, trust_remote_code: bool = False) -> None:
    """An adapter can be merged; of what else was named, say what it is.

    Raises:
        UsageError: `name` is a whole model.
        UserError: there is no such model.
    """
    source = find_model(name, trust_remote_code)
    if source.is_adapter:
        return
    if find_adapter(source.path) is not None:
        raise UsageError(
            f"{source.path} is merged already (its adapter alone lies in {source.path / 'adapter'}): use it as it is, "
            f"or: python main.py convert export --checkpoint {source.path} --format gguf --output DIR"
        )
    raise UsageError(
        f"{name} is no LoRA adapter (no adapter_config.json), so there is nothing to merge: it is a whole model, which "
        f"python main.py convert export --checkpoint {name} takes as it is"
    )


def find_adapter(folder: Path) -> Path | None:
    """Where a merged `final/` keeps its adapter."""
    adapter = folder / "adapter"
    return adapter if (adapter / "adapter_config.json").is_file() else None
