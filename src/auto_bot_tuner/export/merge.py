"""`convert merge-lora`: W + (alpha / r) · B A, written out as one model that needs no peft."""

from __future__ import annotations

from pathlib import Path

from auto_bot_tuner.export.folder import check_output
from auto_bot_tuner.export.safetensors_folder import export_safetensors
from auto_bot_tuner.export.source import check_is_adapter, load
from auto_bot_tuner.utils.model_source import find_model


def merge_adapter(checkpoint: str, output: Path, overwrite: bool = False, trust_remote_code: bool = False) -> list[str]:
    """Merge the adapter in `checkpoint` into its base; what was done, line by line.

    Raises:
        UsageError: `checkpoint` is no adapter, or `output` may not be written.
        UserError: the adapter or its base cannot be had, or the result does not read back as it was written.
    """
    check_is_adapter(checkpoint, trust_remote_code)
    check_output(output, overwrite, find_model(checkpoint, trust_remote_code).path)
    loaded = load(checkpoint, trust_remote_code)
    return export_safetensors(loaded, output, "float32", trust_remote_code)
