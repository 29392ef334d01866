"""`convert export --format gguf`: one file for llama.cpp and what is built on it (Ollama, LM Studio …).

The file is written by the `gguf` library, under its own names for tensors and metadata; read back by transformers, with
`gguf_file=`; and compared with the model: see `checking.py` for what is compared.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shlex
from pathlib import Path
from typing import Any

import torch

from auto_bot_tuner.export import checking
from auto_bot_tuner.export.folder import exported_to, write_card
from auto_bot_tuner.export.gguf_model import check_config, hyperparameters, round_like_file, tensors
from auto_bot_tuner.export.gguf_tokenizer import tokenizer_metadata
from auto_bot_tuner.export.safetensors_folder import merged_words, rounding_words, weight_words
from auto_bot_tuner.export.source import Loaded
from auto_bot_tuner.export.words import commands, fact
from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.quiet import quiet_libraries

# gguf.LlamaFileType
FILE_TYPES = {"float32": 0, "float16": 1, "q8_0": 7, "bfloat16": 32}


def check_can_carry(name: str, trust_remote_code: bool = False) -> None:
    """Known from config.json, before the weights are read.

    Raises:
        UserError: a reward model, an architecture that is not carried, or no `gguf` library.
    """
    from auto_bot_tuner.utils.base_weights import load_architecture
    from auto_bot_tuner.utils.model_source import find_base, find_model
    from auto_bot_tuner.utils.score_head import adapter_scores_text, scores_text

    if importlib.util.find_spec("gguf") is None:
        raise UserError("GGUF files are written by the gguf library, which is an extra: uv pip install gguf")
    source = find_model(name, trust_remote_code)
    scores = adapter_scores_text(source)
    base = find_base(source, trust_remote_code) if source.is_adapter else source
    config = load_architecture(base, trust_remote_code)
    if scores or scores_text(config):
        raise UserError(f"{name} is a reward model, which GGUF readers cannot run: export it with --format safetensors")
    check_config(config)


def export_gguf(loaded: Loaded, output: Path, name: str, dtype: str) -> list[str]:
    """Write `output`/NAME.gguf and a card, read it back, compare; what was found.

    Raises:
        UserError: this model cannot be carried, the disk is full, or the file reads back as another model.
    """
    with exported_to(output) as aside:
        facts = write_checked(loaded, aside / f"{name}.gguf", dtype)
        write_card(aside, loaded.source.path, "gguf", f"`{name}.gguf`, weights {dtype}.", facts)
    file = output / f"{name}.gguf"
    size = file.stat().st_size / 2**20
    return [
        fact("written", f"{file} ({weight_words(loaded.model, dtype)}, {size:,.1f} MiB)"),
        *facts,
        *commands(f"llama-cli -m {shlex.quote(str(file))}"),
    ]


def write_checked(loaded: Loaded, file: Path, dtype: str) -> list[str]:
    """The file, and what came of reading it back. `loaded.model` has the rounded weights afterwards."""
    model = loaded.model
    exact = checking.logits_of(model)
    write(loaded, file, dtype)
    round_like_file(model, dtype)
    cost = checking.cost_of_rounding(dtype, model, exact)
    fault, remark = read_back(file, model)
    checking.check_equal(file.name, fault)
    return [
        *merged_words(loaded),
        fact(
            "read back", f"every weight equal, largest logit difference {fault:.1e} (transformers, gguf_file=){remark}"
        ),
        *rounding_words(dtype, cost),
        fact("tokens", token_words(file, loaded.tokenizer)),
    ]


def write(loaded: Loaded, file: Path, dtype: str) -> None:
    import gguf

    model, config = loaded.model, loaded.model.config
    architecture = check_config(config)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type("model")
    writer.add_name(file.stem)
    writer.add_file_type(FILE_TYPES[dtype])
    if dtype == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in hyperparameters(config, loaded.vocabulary_rows).items():
        add(writer, f"{architecture}.{key}", value)
    for key, value in tokenizer_metadata(loaded.tokenizer, loaded.vocabulary_rows).items():
        add(writer, f"tokenizer.{key}", value)
    for name, data, kind in tensors(model, architecture, dtype):
        writer.add_tensor(name, data, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def add(writer: Any, key: str, value: Any) -> None:
    """A value under the type that the specification gives it: numbers are unsigned, arrays of one type."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        writer.add_array(key, value)


def read_back(file: Path, model: Any) -> tuple[float, str]:
    """The largest difference of logits after reading the file in plain transformers, and what has to be said of that.

    Its reader leaves some of the metadata unread (GPT-2's context, Llama-3's scaling of positions …). Where it cannot
    read the file alone, it is given the model's config, as a user would.

    Raises:
        UserError: it cannot read the file at all.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    own = AutoConfig.for_model(**{**model.config.to_dict(), "model_type": check_config(model.config)})
    settings = {"gguf_file": file.name, "dtype": torch.float32, "local_files_only": True}
    cause, fault = "", float("inf")
    for config in ({}, {"config": own}):
        try:
            with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar knows no off
                loaded = AutoModelForCausalLM.from_pretrained(file.parent, **settings, **config).eval()
            cause, fault = "", checking.fault_of(loaded, model)
        except (RuntimeError, ValueError, TypeError, OSError, LookupError) as error:
            cause = one_line(error)
        if fault <= checking.TOLERANCE:
            remark = "; with config= given, as its reader does not take all of it from the file" if config else ""
            return fault, remark
    if cause:
        raise UserError(
            f"{file.name} was written, but transformers cannot read it back ({cause}), so it could not be checked and "
            "was deleted: export --format safetensors instead"
        )
    return fault, ""


def token_words(file: Path, tokenizer: Any) -> str:
    """Whether transformers, reading the file's tokenizer, cuts texts as the model's own does.

    That llama.cpp does was settled when its algorithm was chosen; the tokenizer that transformers builds from a GGUF
    file is a third one, with habits of its own (white space before the first word, control tokens).
    """
    from transformers import AutoTokenizer

    try:
        with quiet_libraries():
            other = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        different = checking.different_texts(tokenizer, other)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        return f"transformers cannot read the tokenizer of a GGUF file of this kind ({one_line(error)})"
    texts = len(checking.TEXTS)
    if not different:
        return f"the model's own in {texts} of {texts} texts (transformers, gguf_file=)"
    return (
        "the model's own, by the rules that the file names for llama.cpp; the tokenizer that transformers makes of it "
        f"cuts {len(different)} of {texts} texts otherwise, such as {different[0][:16]!r}: keep the model's own there"
    )
