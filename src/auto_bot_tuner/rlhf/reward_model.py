r"""The reward model: one number for a prompt and a response, the higher the better.

    input_ids (B, T)  ->  trunk  ->  hidden state of the last real token (B, H)  ->  score head  ->  r (B,)

The last token alone has read everything before it, so that is where the score is read; and the last token is the *end
token*, where there is one. Whether a response ended well is part of its quality, and a model that cannot see the end
would later reward a policy for never stopping. Where a row ends is told by its attention mask, never by comparing ids:
with pad == eos (the usual fallback) the end token has padding's id, and transformers' own classification models step
over it.

Scores have no zero point of their own: the loss sees differences. So after training their mean on the training rows is
measured, stored as `reward_offset` in the config, and subtracted here.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.training.flat import hidden_states_at
from auto_bot_tuner.training.logprobs import causal_model
from auto_bot_tuner.training.sharding import through_root
from auto_bot_tuner.utils import saving
from auto_bot_tuner.utils.base_weights import load_architecture, load_weights
from auto_bot_tuner.utils.device import choose_device
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.lora import add_adapter, load_adapter
from auto_bot_tuner.utils.model_loading import check_frozen_settings, check_vocabulary, load, load_tokenizer
from auto_bot_tuner.utils.model_source import ModelSource, find_base, find_model, read_adapter_config
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.score_head import HEAD, adapter_scores_text, check_one_score, scores_text, with_score_head
from auto_bot_tuner.utils.weight_files import check_weight_files

TRAIN_ONE = "train one with: python main.py train-reward"


class RewardModel(nn.Module):
    """A trunk with a score head, as transformers has it (`…ForSequenceClassification`, one label), maybe with adapters.

    `model` is that, `config` its config, `offset` what is subtracted from its raw scores.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Scores (B,) of rows (B, T), padded on either side; the mask is 1 at real tokens. None: there is no padding.

        Raises:
            ValueError: a row has no real token.
        """
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        lengths = real.sum(dim=1)  # (B,)
        if not bool((lengths > 0).all()):
            raise ValueError("a row without a real token has no score: its attention mask is all zeros")
        # Real tokens first, in their order. Right-padded rows need no mask and no positions, as no token looks to its
        # right: so padding side and batch mates cannot change a score.
        to_the_left = (~real).to(torch.uint8).argsort(dim=1, stable=True)  # (B, T)
        return self.raw_scores(input_ids.gather(1, to_the_left), lengths) - self.offset

    @through_root
    def raw_scores(
        self,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        shared: torch.Tensor | None = None,
        is_flat: bool = False,
    ) -> torch.Tensor:
        """Scores (S,) before centring, of right-padded rows (S, T); `shared`, `is_flat`: see `hidden_states_at`."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        is_last = positions == lengths[:, None] - 1  # (S, T): one in each row
        base = self.get_base_model()
        hidden = hidden_states_at(base, is_flat, input_ids, lengths, is_last, shared)  # (S, H)
        # In float32 even under autocast: bfloat16 knows no number between 2 and 2.015, and scores are compared.
        with torch.autocast(hidden.device.type, enabled=False):
            scores: torch.Tensor = getattr(base, HEAD)(hidden.float()).squeeze(-1)
        return scores

    def get_base_model(self) -> Any:
        """The transformers model inside, with its adapters where it has any."""
        return causal_model(self.model)

    @property
    def config(self) -> Any:
        return self.get_base_model().config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def offset(self) -> float:
        """The mean raw score of the training rows; 0 before it is measured."""
        return float(getattr(self.config, "reward_offset", 0.0))

    @offset.setter
    def offset(self, value: float) -> None:
        self.config.reward_offset = float(value)

    def freeze_base(self) -> None:
        """Train the score head alone.

        Raises:
            UsageError: an adapter is there to be trained, and would never move.
        """
        if saving.is_adapted(self.model):
            raise UsageError("frozen_base trains the score head alone, and LoRA trains an adapter: set one of the two")
        self.requires_grad_(False)
        getattr(self.get_base_model(), HEAD).requires_grad_(True)

    def save_pretrained(self, folder: str | Path, tokenizer: Any = None) -> None:
        """A Hugging Face folder: the model or its adapter, head included, the offset in its config."""
        saving.save_weights(self.model, tokenizer, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | None = None) -> RewardModel:
        """What `save_pretrained` wrote, scores and all; trainable where it was.

        Raises:
            UserError: the folder holds no reward model, or a damaged one.
        """
        config = ModelConfig(name=str(folder), use_lora=False)
        check_has_score_head(find_model(config.name), config)
        return cls(scoring_model(config, choose_device(device)))


def create_reward_model_from_pretrained(
    name: str | Path,
    tokenizer: Any = None,
    device: str | None = None,
    *,
    use_lora: bool = False,
    frozen_base: bool = False,
    **settings: Any,
) -> RewardModel:
    """A reward model to train: a language model with a new score head, or an earlier reward model with its own.

    Args:
        name: hub id, local folder, run folder or bundled name of a language model, of an SFT LoRA checkpoint (its
            adapter is added into the weights: what SFT taught is what scoring starts from), or of a reward model.
        tokenizer: its tokenizer; None takes the model's own.
        device: "cuda", "mps", "cpu"; None or "auto" takes the best there is.
        use_lora: freeze the weights and train an adapter and the head.
        frozen_base: train the head alone.
        settings: the other fields of `ModelConfig` (`lora_r`, `dtype` …).

    Raises:
        UserError: the model cannot be had, or has no score head in transformers.
        UsageError: settings that contradict each other.
    """
    config = ModelConfig(name=str(name), use_lora=use_lora, device=device or "auto", **settings)  # type: ignore[arg-type]
    return reward_model_from_config(config, tokenizer, frozen_base)[0]


def reward_model_from_config(
    config: ModelConfig, tokenizer: Any = None, frozen_base: bool = False
) -> tuple[RewardModel, Any, str]:
    """`create_reward_model_from_pretrained` for the `model` section of a run's config, with tokenizer and device."""
    device = choose_device(config.device)
    reward_model = RewardModel(scoring_model(config, device, frozen=frozen_base))
    if frozen_base:
        reward_model.freeze_base()
    tokenizer = tokenizer if tokenizer is not None else load_own_tokenizer(config)
    check_vocabulary(config.name, tokenizer, reward_model.get_base_model())
    # transformers looks for the last token that is not padding, by its id. Where that id ends answers too it would
    # step over the end token; without a pad id it takes rows one at a time and refuses batches, so it is never wrong.
    stops = PromptFormat.from_tokenizer(tokenizer).stop_token_ids
    reward_model.config.pad_token_id = None if tokenizer.pad_token_id in stops else tokenizer.pad_token_id
    return reward_model, tokenizer, device


def load_reward_model(
    name: str | Path, device: str | None = None, dtype: str = ModelConfig.dtype, trust_remote_code: bool = False
) -> tuple[RewardModel, Any, str]:
    """A trained reward model, frozen, to score with: (reward model, its tokenizer, device).

    Raises:
        UserError: `name` holds no reward model; the message says how to train one.
    """
    config = ModelConfig(
        name=str(name),
        use_lora=False,
        device=device or "auto",  # type: ignore[arg-type]  # pydantic refuses any other word
        dtype=dtype,  # type: ignore[arg-type]
        trust_remote_code=trust_remote_code,
    )
    check_has_score_head(find_model(config.name, trust_remote_code), config)
    device = choose_device(config.device)
    reward_model = RewardModel(scoring_model(config, device, frozen=True))
    reward_model.requires_grad_(False)
    return reward_model, load_own_tokenizer(config), device


def check_has_score_head(source: ModelSource, config: ModelConfig) -> None:
    if not is_reward_model(source, config):
        raise UserError(f"{source.name} holds no reward head, it is a language model: {TRAIN_ONE}")


def is_reward_model(source: ModelSource, config: ModelConfig) -> bool:
    """Whether the folder's own files say so; nothing is loaded."""
    if source.is_adapter:
        return adapter_scores_text(source)
    return scores_text(load_architecture(source, config.trust_remote_code))


def scoring_model(config: ModelConfig, device: str, frozen: bool = False) -> Any:
    """The transformers (or peft) model that scores, on `device`; whatever `config.name` holds becomes one.

    A reward adapter lies on a base that is made a scoring model first: its head comes from the adapter's file.
    """
    source = find_model(config.name, config.trust_remote_code)
    with quiet_libraries():
        if source.is_adapter and is_reward_model(source, config):
            base_name = str(read_adapter_config(source.path).get("base_model_name_or_path"))
            base = dataclasses.replace(config, name=base_name, use_lora=False)
            model: Any = load_adapter(scoring_model(base, device, frozen=True), source.path, config)
            model.get_base_model().config.reward_offset = saved_offset(source)
            return model.to(device).eval()
        if is_reward_model(source, config):
            check_frozen_settings(config, has_frozen_base=frozen or config.use_lora)
            check_weight_files(source.path)
            model = load_weights(source, load_architecture(source, config.trust_remote_code), config, device)
            check_one_score(model, source.name)
        else:
            model = with_score_head(language_model(source, config, device, frozen))
        getattr(model, HEAD).float()  # the one layer whose arithmetic is never lowered
        if config.use_lora:
            model = add_adapter(model, config)
    return model.to(device).eval()


def language_model(source: ModelSource, config: ModelConfig, device: str, frozen: bool) -> Any:
    """The causal model, an SFT adapter added into its weights: W + (alpha / r) · B A.

    What comes out is no longer the hub's model. It goes by the adapter's folder as its name, so that `final/` becomes
    a whole model, and not an adapter on a base that never saw SFT.
    """
    if source.is_adapter and config.load_in_4bit:
        raise UsageError(
            f"{source.name} is an adapter, and adding it into 4-bit weights would round it away: merge it first with "
            "python main.py convert merge-lora"
        )
    model, _, _ = load(dataclasses.replace(config, use_lora=False), device, frozen or config.use_lora)
    if not saving.is_adapted(model):
        return model
    merged: Any = model.merge_and_unload()
    merged.requires_grad_(True)
    merged.name_or_path = merged.config._name_or_path = str(source.path.resolve())
    return merged


def saved_offset(source: ModelSource) -> float:
    """Of an adapter's folder. Other tools write no config.json there, and centre no scores."""
    path = source.path / "config.json"
    return float(json.loads(path.read_text(encoding="utf-8")).get("reward_offset", 0.0)) if path.is_file() else 0.0


def load_own_tokenizer(config: ModelConfig) -> Any:
    source = find_model(config.name, config.trust_remote_code)
    if not source.has_tokenizer and source.is_adapter:
        source = find_base(source, config.trust_remote_code)
    with quiet_libraries():
        return load_tokenizer(source, config)
