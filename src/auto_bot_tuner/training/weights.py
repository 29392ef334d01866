"""Weights from a checkpoint folder back into a model that is being trained (`utils/saving.py` wrote them there)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from auto_bot_tuner.training import sharding
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.lora import adapter_tensors
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.saving import is_adapted
from auto_bot_tuner.utils.weight_files import check_loading_report


def load_weights(model: Any, folder: Path) -> None:
    """Copy the weights of `folder` into `model`, in place, so that the optimiser keeps its parameters.

    Raises:
        UserError: the folder holds another model.
        OSError, SafetensorError: it cannot be read.
    """
    sharding.load_into(model, lambda whole: load_whole(whole, folder))


def load_whole(model: Any, folder: Path) -> None:
    """As `load_weights`, of a model whose weights are not cut up."""
    if is_adapted(model):
        saved = load_file(folder / "adapter_model.safetensors")
        if astray := sorted(saved.keys() ^ adapter_tensors(model).keys()):  # peft would leave them as they are
            raise UserError(f"{folder} holds another adapter: {astray[0]} is in only one of it and this model")
        set_peft_model_state_dict(model, saved)
        return
    # Through transformers, which may name weights differently in files than in memory; never its dtype guess.
    with quiet_libraries():
        whole, report = type(model).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    check_loading_report(str(folder), report)  # a missing tensor is at random numbers now
    model.load_state_dict(whole.state_dict())
