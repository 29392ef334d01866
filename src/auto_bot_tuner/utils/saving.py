"""Models on disk, for others to read: plain Hugging Face folders that `transformers` and `peft` load as they are.

full model               the model
LoRA on a hub base       the adapter; it names its base, which any machine can fetch
LoRA on any other base   the merged model, W + (alpha / r) · B A, and the adapter itself in adapter/: a base that
                         lies only on this machine (or in this checkout) could not be found elsewhere
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import nn

from auto_bot_tuner.training import sharding
from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.training.run_folder import written_aside
from auto_bot_tuner.utils.base_weights import load_architecture, load_weights
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.lora import adapter_tensors
from auto_bot_tuner.utils.model_source import find_model
from auto_bot_tuner.utils.quiet import quiet_libraries
from auto_bot_tuner.utils.score_head import HEAD, has_score_head, with_score_head
from auto_bot_tuner.utils.stop_tokens import with_stop_tokens

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_for_users(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    write_card: Callable[[Path], None] | None = None,
) -> float:
    """Write `final/`: a folder that works on a machine without this checkout, or nothing under that name.

    Args:
        write_card: called with the folder before it gets its name, to put README.md (the model card) into it.

    Returns:
        the largest difference between an output of the merged and of the adapted model; 0 where nothing was merged.

    Raises:
        UserError: the disk is full, or what was written does not read back; an older `folder` stays as it was.
    """
    difference, model = 0.0, sharding.plain(model)
    with written_aside(folder) as aside:
        if not is_adapted(model) or base_is_on_hub(model):
            save_weights(model, tokenizer, aside)
        else:
            merged = merge(model)
            difference = largest_logit_difference(model, merged)
            save_weights(merged, tokenizer, aside)
            save_weights(model, tokenizer, aside / "adapter")
        if write_card is not None:
            write_card(aside)
    return difference


def save_weights(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Weights (of an adapted model: the adapter's alone), config, tokenizer with chat template, stop tokens.

    A reward model has no stop tokens. Beside its adapter lies its config, which holds the zero point of its scores.

    Raises:
        UserError: the files do not read back as what was written.
    """
    model = sharding.plain(model)
    base = model.get_base_model() if is_adapted(model) else model
    generation = None if has_score_head(base) else with_stop_tokens(model, tokenizer)
    with quiet_libraries():
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)
        if is_adapted(model):
            # Left to itself peft would ask the hub whether the embedding was resized: a run may not hang on that.
            # Of its adapters the policy's alone: others may stand beside it (reference, value network).
            trained = [model.active_adapter]
            model.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=trained)
            (folder / "README.md").unlink()  # peft's empty form
            (base.config if generation is None else generation).save_pretrained(str(folder))
        else:
            if generation is not None:
                model.generation_config = generation
            model.save_pretrained(str(folder))
    check_written(folder, adapter_tensors(model) if is_adapted(model) else model.state_dict())


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The tokenizer's files; a disk that is full is an OSError here as everywhere."""
    try:
        tokenizer.save_pretrained(str(folder))
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # the tokenizers library (Rust) raises bare Exception for it


def check_written(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """What lies on the disk is what is in memory, bit by bit: a disk may lie, and a run is hours.

    Names that the architecture stores differently, or shares (a tied head is stored once), are not looked for.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in set(file.keys()) & tensors.keys():
                if not torch.equal(file.get_tensor(name), tensors[name].detach().cpu()):
                    raise UserError(
                        f"{path}: {name} does not read back as it was written: is the disk in order? try another"
                    )


def is_adapted(model: torch.nn.Module) -> bool:
    return hasattr(model, "peft_config")


def base_is_on_hub(model: PeftModel) -> bool:
    """Whether the base's name means the same elsewhere. A local path, a bundled name or none at all does not."""
    from auto_bot_tuner.assets import bundled_model

    name = model.active_peft_config.base_model_name_or_path
    return bool(name) and not Path(name).exists() and bundled_model(name) is None


@torch.no_grad()
def merge(model: PeftModel) -> PreTrainedModel:
    """A new float32 model on the CPU with the adapter added into its weights; `model` itself is not touched.

    (Merging in place and taking the adapter out again would leave rounding errors in the frozen base.)
    """
    from peft import PeftModel, set_peft_model_state_dict

    with quiet_libraries():
        adapted = PeftModel(unadapted_base(model), copy.deepcopy(model.active_peft_config))
        set_peft_model_state_dict(adapted, adapter_tensors(model))
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.eval()


def unadapted_base(model: PeftModel) -> PreTrainedModel:
    """The base as it was before the adapter, as a copy in float32 on the CPU."""
    base = model.get_base_model()
    if getattr(base, "is_loaded_in_4bit", False):
        # Four bits are for training: the adapter is added to the weights they were made from.
        name = model.active_peft_config.base_model_name_or_path
        source = find_model(name)
        whole = load_weights(source, load_architecture(source, False), ModelConfig(name=name), "cpu")
        return with_score_head(whole) if has_score_head(base) and not has_score_head(whole) else whole
    # A layer with an adapter keeps its own weight as base_layer; one that is trained beside it, as original_module.
    own = {
        name.replace(".base_layer", "").replace(".original_module", ""): tensor.to("cpu", torch.float32, copy=True)
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }
    config = copy.deepcopy(base.config)
    fresh: PreTrainedModel = type(base).from_pretrained(None, config=config, state_dict=own, dtype=torch.float32)
    if not has_score_head(base):
        fresh.generation_config = copy.deepcopy(base.generation_config)
    return fresh


@torch.no_grad()
def largest_logit_difference(model: PeftModel, merged: PreTrainedModel, length: int = 16) -> float:
    """max |logits(adapted) − logits(merged)| over one row of tokens: merging sums in another order, so not quite 0."""
    vocabulary = merged.get_input_embeddings().weight.shape[0]
    input_ids = (torch.arange(length) * 7919 % vocabulary)[None]  # (1, T): tokens from all over the vocabulary
    was_training, base = model.training, model.get_base_model()
    model.eval()
    # A score head is float32 on a trunk of any type; `RewardModel` knows that, transformers' own forward does not.
    head = getattr(base, HEAD) if has_score_head(base) else nn.Identity()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    mask = torch.ones_like(input_ids)  # some of the ids may be the pad id, which transformers would warn of
    inputs = {"input_ids": input_ids, "attention_mask": mask}
    on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    adapted_logits = model(**on_device).logits.float().cpu()  # (1, T, V)
    hook.remove()
    model.train(was_training)
    return float((adapted_logits - merged(**inputs).logits).abs().max())
