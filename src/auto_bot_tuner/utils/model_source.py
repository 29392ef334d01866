"""Where a model's files are: a name becomes a folder on this machine.

    bundled name (`tiny`) · local folder · run folder (its final/) · hub id (downloaded once, then cached)

After this step everything is a local folder: there is one way to read weights, offline or not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from auto_bot_tuner.hub.cache import has_all_weights, is_cached
from auto_bot_tuner.hub.errors import NONSENSE, hub_error
from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.json_files import NO_JSON
from auto_bot_tuner.utils.local_paths import is_path, missing_path, unfinished_run
from auto_bot_tuner.utils.paths import expanded

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What is fetched of a hub repository: the same weights often lie there in five more formats, some of them pickled.
WEIGHTS = ("model.safetensors", "model-*.safetensors", ADAPTER_WEIGHTS)
HUB_FILES = ("*.json", "*.jinja", "*.txt", "*.model", *WEIGHTS)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


@dataclass(frozen=True)
class ModelSource:
    """A model's name and its files."""

    name: str  # what adapters and model cards call it: a hub id, a bundled name, or an absolute path
    path: Path  # the folder with its files
    is_on_hub: bool = False  # whether the name means the same on any machine with a network

    @property
    def is_adapter(self) -> bool:
        return (self.path / ADAPTER_CONFIG).is_file()

    @property
    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)


def find_model(name: str, trust_remote_code: bool = False) -> ModelSource:
    """The folder that holds the model called `name`, downloaded if it has to be.

    Raises:
        UserError: no such folder, a folder without a model, no such hub model, no access to it, no network.
    """
    from auto_bot_tuner.assets import bundled_model

    refuse_mistyped(name)
    folder = expanded(name)
    if folder.is_dir():
        path = model_folder(folder)
        return ModelSource(str(path.resolve()), path)
    if folder.is_file():
        raise UserError(f"{name} is a file, not a model: name the folder that holds it (with config.json)")
    bundled = bundled_model(name)
    if bundled is not None:
        return ModelSource(name, bundled)
    return ModelSource(name, download(name, trust_remote_code), is_on_hub=True)


def refuse_mistyped(name: str) -> None:
    """What can be known of a model's name in a millisecond: that it is a path at which nothing lies.

    Raises:
        UserError: it is; the message has the nearest one.
    """
    if not expanded(name).exists() and is_path(name) and not is_cached(name, "model"):
        raise missing_path(name, "model")


def model_folder(folder: Path) -> Path:
    """`folder` itself, or `folder/final` where it is a run's output_dir.

    Raises:
        UserError: neither holds a model or an adapter.
    """
    for candidate in (folder, folder / "final"):
        if (candidate / "config.json").is_file() or (candidate / ADAPTER_CONFIG).is_file():
            return candidate
    hint = unfinished_run(folder) or "name the folder with config.json and model.safetensors, or a hub id such as gpt2"
    raise UserError(f"{folder} holds no model (neither config.json nor {ADAPTER_CONFIG}): {hint}")


def download(name: str, trust_remote_code: bool, progress_bar: Any = None) -> Path:
    """Fetch a hub model into the shared cache (or find it there) and return its folder.

    Args:
        progress_bar: a class like tqdm, instead of huggingface_hub's.

    Raises:
        UserError: no such model, no access to it, no network, a full disk, or no weights in safetensors.
    """
    from huggingface_hub import logging as hub_logging
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, httpx

    verbosity, shows_progress = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity_error()  # "you are not logged in" is no news: public models need no account
    if not sys.stderr.isatty():
        disable_progress_bars()  # in a log file a bar is hundreds of lines
    try:
        folder = Path(
            snapshot_download(
                name,
                allow_patterns=patterns(trust_remote_code),
                ignore_patterns=["*/*"],
                tqdm_class=progress_bar,
            )
        )
    except HFValidationError as error:  # blanks, umlauts …: it can only have been meant as a path
        raise missing_path(name, "model") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, *NONSENSE) as error:
        raise hub_error(name, error) from error
    finally:
        hub_logging.set_verbosity(verbosity)
        if shows_progress:
            enable_progress_bars()
    if not has_all_weights(folder):
        refuse_without_weights(name, repository_files(name))
    return folder


def patterns(trust_remote_code: bool) -> list[str]:
    """Which files of a repository are fetched. Its code only where it may run."""
    return [*HUB_FILES, *(["*.py"] if trust_remote_code else [])]


def repository_files(name: str) -> list[str]:
    """The names of all files of a hub model; none where the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    try:
        return HfApi().list_repo_files(name)
    except (HfHubHTTPError, httpx.HTTPError, OSError, *NONSENSE):
        return []


def refuse_without_weights(name: str, files: Iterable[str]) -> None:
    """A repository or a folder whose weights nobody here will read: which they are, and what to do.

    Raises:
        UserError: always, unless there are safetensors among the `files`.
    """
    top = [file for file in files if "/" not in file]
    if any(fnmatch(file, weights) for file in top for weights in WEIGHTS):
        return
    pickled = next((file for file in top if file.endswith(PICKLES)), None)
    gguf = next((file for file in top if file.endswith(".gguf")), None)
    if pickled:
        raise UserError(
            f"{name} has only pickled weights ({pickled}), and reading a pickle can run a stranger's code: choose a "
            "model with safetensors, or where you trust it, convert it with transformers' save_pretrained() first"
        )
    if gguf:
        raise UserError(
            f"{name} has only GGUF weights ({gguf}), made for running a model, not for training it: name the model "
            "that it was made from (its page says which)"
        )
    raise UserError(
        f"{name} holds no weights in safetensors ({', '.join(top[:4]) or 'no file at all'}): name another model, or "
        "the folder of this one that has them"
    )


def read_adapter_config(folder: Path) -> dict[str, object]:
    """adapter_config.json as a dict.

    Raises:
        UserError: it cannot be read, or is the config of something else than a LoRA language or reward model.
    """
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except NO_JSON as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): copy the checkpoint again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{path} is not of a LoRA adapter (peft_type LORA): only those can be trained and merged here")
    if config.get("task_type") not in (None, "CAUSAL_LM", "SEQ_CLS"):
        raise UserError(
            f"{folder} is an adapter for {config['task_type']}: name one of a language model (CAUSAL_LM) or of a "
            "reward model (SEQ_CLS)"
        )
    return config


def find_base(adapter: ModelSource, trust_remote_code: bool = False) -> ModelSource:
    """The base model that an adapter was trained on: the one its adapter_config.json names.

    Raises:
        UserError: the config is unreadable, names no base, or the base is not to be had.
    """
    name = read_adapter_config(adapter.path).get("base_model_name_or_path")
    cure = f"correct base_model_name_or_path in {adapter.path / ADAPTER_CONFIG}"
    if not isinstance(name, str) or not name:
        raise UserError(f"the adapter {adapter.name} does not say which model it belongs to: {cure}")
    try:
        base = find_model(name, trust_remote_code)
    except UserError as error:
        raise UserError(f"the base model of the adapter {adapter.name} is missing: {error} (or {cure})") from error
    if base.is_adapter:
        raise UserError(f"the adapter {adapter.name} names another adapter, {name}, as its base: merge that one first")
    return base
