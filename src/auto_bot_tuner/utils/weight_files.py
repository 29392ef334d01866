"""Weight files are looked at before they are trusted: what is missing, damaged or not a number stops the run here.

transformers fills a missing or misshapen tensor with random numbers and a warning; training would then go on
from noise. So each of these is an error that names the file or the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from auto_bot_tuner.utils.errors import UserError, one_line

INDEX = "model.safetensors.index.json"  # big models come in several files; this one says which tensor is where
PICKLED = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth", "*.ckpt")


def check_weight_files(folder: Path, single_file: str = "model.safetensors") -> None:
    """Every weight file is there and whole, by its header: no tensor is read yet.

    Raises:
        UserError: only pickled weights, none at all, or a damaged file.
    """
    if (folder / single_file).is_file():
        files = [folder / single_file]
    elif (folder / INDEX).is_file():
        files = shards(folder / INDEX)
    else:
        pickled = next((path.name for pattern in PICKLED for path in folder.glob(pattern)), None)
        cause = f"only pickled weights ({pickled})" if pickled else f"no weights ({single_file})"
        raise UserError(
            f"{folder} holds {cause}: safetensors are needed, since reading a pickle can run a stranger's code; "
            "where you trust it, load it with transformers and save_pretrained() it, else choose another model"
        )
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is missing or damaged ({one_line(error)}): copy or download it again") from error


def shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / name for name in sorted(names)]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is damaged ({one_line(error)}): copy or download it again") from error


def check_loading_report(name: str, report: Mapping[str, Any]) -> None:
    """No tensor of the model was left at random numbers.

    `report` is transformers' loading info: tensors that the file lacks, and those with another shape.
    """
    missing, misshapen = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    cure = "config.json and weights are not of the same model; copy or download both again"
    if missing:
        raise UserError(f"{name} lacks the weights of {listed(missing)}: {cure}")
    if misshapen:
        tensor, in_file, in_model = misshapen[0]
        raise UserError(f"{name}: {tensor} is {tuple(in_file)} in the file, {tuple(in_model)} by config.json: {cure}")
    if report["error_msgs"]:
        raise UserError(f"{name} cannot be loaded ({report['error_msgs'][0]}): {cure}")


def listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def check_finite(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Every weight is a number. One NaN in a weight makes every logit NaN.

    Raises:
        UserError: names the tensor.
    """
    for tensor_name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:  # 4-bit weights are packed integers
            continue
        # Both ends of the range are finite ⟺ all are; unlike isfinite().all() this needs no second tensor.
        lowest, highest = tensor.detach().aminmax()
        if not (torch.isfinite(lowest) and torch.isfinite(highest)):
            raise UserError(
                f"{name} has NaN or infinite weights in {tensor_name}: "
                "the run that saved it diverged or the file is damaged; use an earlier checkpoint"
            )
