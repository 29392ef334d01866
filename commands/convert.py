"""`convert merge-lora | export`: models out, each checked by loading it back."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.terminal import neutral


@dataclass(config=STRICT, kw_only=True)
class MergeArguments:
    """Add a LoRA adapter into the weights of its base: one model, which needs no peft and is as fast as the base."""

    # The adapter: a folder with adapter_config.json, or a hub id. Of a language model or of a reward model.
    lora_checkpoint: str
    # Folder for the merged model.
    output: str
    # Replace the output folder where it holds an earlier export.
    overwrite: bool = False
    # Let the model's repository run its own Python code on this machine.
    trust_remote_code: bool = False


@dataclass(config=STRICT, kw_only=True)
class ExportArguments:
    """Write a model as other tools read it, and check it by loading it back: logits, tokens, chat template."""

    # Hub id, local folder, run folder, LoRA checkpoint folder (it is merged), or a bundled name such as tiny.
    checkpoint: str
    # safetensors: a Hugging Face folder (transformers, vLLM, TRL …), reward models too. gguf: one file for llama.cpp
    # and LM Studio. ollama: the same with a Modelfile whose template writes what training wrote.
    format: Literal["safetensors", "gguf", "ollama"]
    # Folder to write.
    output: str
    # How weights are stored. float32 loses nothing; float16 and bfloat16 halve the file; q8_0 (gguf and ollama) takes
    # 8.5 bits a weight. What it costs is measured and printed.
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] = "float32"
    # Name of the file and of Ollama's model. Empty: that of the run or the model.
    name: str = ""
    # File with a Jinja chat template, or the word builtin. Empty: the model's own, else the built-in one.
    chat_template: str = ""
    # Replace the output folder where it holds an earlier export.
    overwrite: bool = False
    # Let the model's repository run its own Python code on this machine.
    trust_remote_code: bool = False


Arguments = (
    Annotated[MergeArguments, tyro.conf.subcommand("merge-lora")]
    | Annotated[ExportArguments, tyro.conf.subcommand("export")]
)


def run(arguments: MergeArguments | ExportArguments) -> None:
    """Convert, print what was found, and say what to do with it.

    Raises:
        UsageError: the flags contradict each other, or the output folder may not be written.
        UserError: the model cannot be had, or cannot be carried by this format.
    """
    lines = merge(arguments) if isinstance(arguments, MergeArguments) else export(arguments)
    print(neutral("\n".join(lines)))


def merge(arguments: MergeArguments) -> list[str]:
    from auto_bot_tuner.export.merge import merge_adapter

    output = expanded(arguments.output)
    lines = merge_adapter(arguments.lora_checkpoint, output, arguments.overwrite, arguments.trust_remote_code)
    return [*lines, *next_steps(output, arguments.trust_remote_code)]


def next_steps(output: Path, trust_remote_code: bool) -> list[str]:
    """A reward model scores; a language model is talked to, or leaves for other tools."""
    from auto_bot_tuner.export.words import commands
    from auto_bot_tuner.rlhf.reward_model import is_reward_model
    from auto_bot_tuner.training.config import ModelConfig
    from auto_bot_tuner.utils.model_source import find_model

    name = shlex.quote(str(output))
    config = ModelConfig(name=str(output), use_lora=False, trust_remote_code=trust_remote_code)
    if is_reward_model(find_model(config.name, trust_remote_code), config):
        return commands(f"python main.py evaluate reward --model {name} --dataset PAIRS")
    return commands(
        f"python main.py chat {name}",
        f"python main.py convert export --checkpoint {name} --format ollama --output DIR",
    )


def export(arguments: ExportArguments) -> list[str]:
    from auto_bot_tuner.export.folder import check_output
    from auto_bot_tuner.utils.model_source import find_model

    output = expanded(arguments.output)
    if arguments.dtype == "q8_0" and arguments.format == "safetensors":
        raise UsageError("--dtype q8_0 is for gguf and ollama: safetensors folders hold float32, float16 or bfloat16")
    if arguments.name and arguments.format == "safetensors":
        raise UsageError("--name is for gguf and ollama: a safetensors folder goes by its own name")
    if set(arguments.name) & set("/\\") or arguments.name.startswith(".") or not arguments.name.isprintable():
        raise UsageError(f"--name {arguments.name!r} is no name for a file: the folder is what --output says")
    check_output(output, arguments.overwrite, find_model(arguments.checkpoint, arguments.trust_remote_code).path)
    return WRITERS[arguments.format](arguments, output)


def name_of(checkpoint: str) -> str:
    """What a model is called: after its run (checkpoints/mine/final: mine), its folder, or its hub id without owner.

    >>> name_of("checkpoints/mine/final"), name_of("checkpoints/mine/checkpoint-40"), name_of("Qwen/Qwen2.5-0.5B")
    ('mine', 'mine-checkpoint-40', 'Qwen2.5-0.5B')
    """
    folder = Path(os.path.abspath(expanded(checkpoint)))
    for part in ("adapter", "final"):  # of RUN/final/adapter both
        folder = folder.parent if folder.name == part else folder
    name = f"{folder.parent.name}-{folder.name}" if folder.name.startswith("checkpoint-") else folder.name
    return name.lstrip(".-") or "model"


def to_safetensors(arguments: ExportArguments, output: Path) -> list[str]:
    from auto_bot_tuner.export.safetensors_folder import export_safetensors
    from auto_bot_tuner.export.source import load

    loaded = load(arguments.checkpoint, arguments.trust_remote_code, arguments.chat_template)
    lines = export_safetensors(loaded, output, arguments.dtype, arguments.trust_remote_code)
    return [*lines, *next_steps(output, arguments.trust_remote_code)]


def to_gguf(arguments: ExportArguments, output: Path) -> list[str]:
    from auto_bot_tuner.export.gguf_file import check_can_carry, export_gguf
    from auto_bot_tuner.export.source import load

    check_can_carry(arguments.checkpoint, arguments.trust_remote_code)
    loaded = load(arguments.checkpoint, arguments.trust_remote_code, arguments.chat_template)
    return export_gguf(loaded, output, arguments.name or name_of(arguments.checkpoint), arguments.dtype)


def to_ollama(arguments: ExportArguments, output: Path) -> list[str]:
    from auto_bot_tuner.export.gguf_file import check_can_carry
    from auto_bot_tuner.export.ollama import export_ollama
    from auto_bot_tuner.export.source import load

    check_can_carry(arguments.checkpoint, arguments.trust_remote_code)
    loaded = load(arguments.checkpoint, arguments.trust_remote_code, arguments.chat_template)
    return export_ollama(loaded, output, arguments.name or name_of(arguments.checkpoint), arguments.dtype)


WRITERS: dict[str, Callable[[Any, Path], list[str]]] = {
    "safetensors": to_safetensors,
    "gguf": to_gguf,
    "ollama": to_ollama,
}
