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
WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "n_positions", "num_attention_heads")
PICKLED = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth", "*.ckpt")


def check_weight_files(folder: Path, single_file: str = "model.safetensors") -> None:
    """Every weight file is there and whole, by its header: no tensor is read yet.

    Raises:
        UserError: only pickled weights, none at all, or a damaged file.
    """
    for path in weight_files(folder, single_file):
        shapes_in(path)


def weight_files(folder: Path, single_file: str = "model.safetensors") -> list[Path]:
    """The files that hold the weights: one, or those that the index names.

    Raises:
        UserError: there is neither, or the index is damaged.
    """
    if (folder / single_file).is_file():
        return [folder / single_file]
    if (folder / INDEX).is_file():
        return shards(folder / INDEX)
    pickled = next((path.name for pattern in PICKLED for path in folder.glob(pattern)), None)
    cause = f"only pickled weights ({pickled})" if pickled else f"no weights ({single_file})"
    raise UserError(
        f"{folder} holds {cause}: safetensors are needed, since reading a pickle can run a stranger's code; "
        "where you trust it, load it with transformers and save_pretrained() it, else choose another model"
    )


def shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        outside = next((name for name in names if not name or Path(name).name != name), None)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{index} is damaged ({one_line(error)}): copy or download it again") from error
    if outside is not None or not names:
        raise UserError(f"{index} names no files of its own folder ({outside!r}): copy or download it again")
    return [index.parent / name for name in sorted(names)]


def shapes_in(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor in a file, from its header.

    Raises:
        UserError: the file is missing or damaged: a download that was cut, or no safetensors but a pickle.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is missing or damaged ({one_line(error)}): copy or download it again") from error


def check_sizes(name: str, architecture: Any, folder: Path) -> None:
    """config.json describes no larger a model than the weights are of.

    transformers makes the module first and compares then: a vocabulary of a billion would fill the memory, a million
    layers take hours.

    Raises:
        UserError: a size in config.json is larger than anything in the files.
    """
    shapes = [shape for path in weight_files(folder) for shape in shapes_in(path).values()]
    text = architecture.get_text_config()
    limits = dict.fromkeys(WIDTHS, max((side for shape in shapes for side in shape), default=0))
    if text.model_type in ("gptj", "codegen"):  # their positions are a table of sines, which is in no file
        limits["n_positions"] = 2**20
    for setting, largest in (limits | {"num_hidden_layers": len(shapes)}).items():
        value = getattr(text, setting, None)
        if isinstance(value, int) and value > largest:
            raise UserError(
                f"{name}: config.json says {setting} {value:,}, and the weights are of a smaller model: config.json "
                "and weights are not of the same model; copy or download both again"
            )


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
