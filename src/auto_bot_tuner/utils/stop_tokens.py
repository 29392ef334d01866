"""Where generation stops: the tokens that end an answer, as every tool reads them from generation_config.json."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def with_stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The model's generation settings, with the template's end-of-turn token and eos among the stops, and with pad.

    What the base stopped at stays a stop. A published config may contradict itself (a temperature beside
    do_sample=False): transformers warns when it reads one, but refuses to save it, so of such a one only the
    tokens are kept; better now than after training.
    """
    from transformers import GenerationConfig

    from auto_bot_tuner.data.prompt_format import PromptFormat

    settings = copy.deepcopy(model.generation_config)
    known = [settings.eos_token_id] if isinstance(settings.eos_token_id, int) else settings.eos_token_id or []
    stops = list(dict.fromkeys([*PromptFormat.from_tokenizer(tokenizer).stop_token_ids, *known]))
    tokens = {"eos_token_id": stops, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    settings.update(**tokens)
    settings._from_model_config = False  # else transformers makes it anew from config.json, without our stops
    try:
        settings.validate(strict=True)
    except ValueError:
        return GenerationConfig(**tokens)
    return settings
