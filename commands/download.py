"""Fetch a model or a data set from the hub, once: `download model ID | dataset ID | list`.

What is there already is said at once, without a network. Fetched is what is needed: of a model the config, the
tokenizer and the safetensors, never a pickle and no second copy of the weights in another format.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.terminal import neutral
from commands.json_file import check_writable, write_json
from commands.labelled import labelled

if TYPE_CHECKING:
    from auto_bot_tuner.data.dataset_facts import DatasetFacts
    from auto_bot_tuner.hub.cache import Cached
    from auto_bot_tuner.hub.download import Listing


NEXT = f"{'next':14}"  # before a command, which is never wrapped: it is to be copied


@dataclass(config=STRICT, kw_only=True)
class FetchArguments:
    """What both kinds share."""

    # Ask the hub for a newer version of what is already here.
    update: bool = False
    # Write what was found to this file as JSON.
    json_file: Annotated[str, tyro.conf.arg(name="json", metavar="FILE")] = ""


@dataclass(config=STRICT, kw_only=True)
class ModelArguments(FetchArguments):
    """Fetch a model, or an adapter with its base: config, tokenizer, safetensors."""

    # Hub id, such as gpt2 or Qwen/Qwen2.5-0.5B.
    id: tyro.conf.Positional[str]
    # Fetch the repository's Python code too. It runs on this machine when the model is loaded with the same flag.
    trust_remote_code: bool = False


@dataclass(config=STRICT, kw_only=True)
class DatasetArguments(FetchArguments):
    """Fetch a data set, all its splits."""

    # Hub id, such as yahma/alpaca-cleaned.
    id: tyro.conf.Positional[str]
    # Configuration (subset), where the data set has several.
    subset: str = ""


@dataclass(config=STRICT, kw_only=True)
class ListArguments:
    """Show what is here: bundled, and downloaded from the hub."""

    # Write the list to this file as JSON.
    json_file: Annotated[str, tyro.conf.arg(name="json", metavar="FILE")] = ""


Arguments = (
    Annotated[ModelArguments, tyro.conf.subcommand("model")]
    | Annotated[DatasetArguments, tyro.conf.subcommand("dataset")]
    | Annotated[ListArguments, tyro.conf.subcommand("list")]
)


def run(arguments: ModelArguments | DatasetArguments | ListArguments) -> None:
    """Fetch, or list.

    Raises:
        UserError: it cannot be had; the message says why, and what to do.
        UsageError: the name needs no download, or the JSON file cannot be written.
    """
    check_writable(arguments.json_file)
    if isinstance(arguments, ListArguments):
        from commands.download_list import show_list

        record = show_list()
    else:
        refuse_what_is_here(arguments.id, "model" if isinstance(arguments, ModelArguments) else "dataset")
        record = fetch_model(arguments) if isinstance(arguments, ModelArguments) else fetch_dataset(arguments)
    write_json(arguments.json_file, record)


def refuse_what_is_here(name: str, kind: str) -> None:
    """Bundled names and paths are used as they are.

    Raises:
        UsageError: `name` is one of them.
    """
    from auto_bot_tuner.assets import BUNDLED_DATASETS, BUNDLED_MODELS

    flag = f"--{kind} {name}"
    if name in (BUNDLED_MODELS if kind == "model" else BUNDLED_DATASETS):
        raise UsageError(f"{name} is bundled, there is nothing to download: use it with {flag}")
    if expanded(name).exists():
        raise UsageError(f"{name} lies here already, there is nothing to download: use it with {flag}")


def is_to_fetch(base: str) -> bool:
    """Whether an adapter's base is a hub id: bundled names and paths are none."""
    from auto_bot_tuner.assets import BUNDLED_MODELS

    return base not in BUNDLED_MODELS and not base.startswith("/") and not Path(base).exists()


def fetch_model(arguments: ModelArguments, is_base: bool = False) -> dict[str, Any]:
    """Fetch, say what it is; the record for `--json`. An adapter's base comes with it."""
    from auto_bot_tuner.hub.cache import cached
    from auto_bot_tuner.hub.download import check_room, list_repository, one_bar, wanted_of_model
    from auto_bot_tuner.hub.model_facts import read_facts
    from auto_bot_tuner.utils.model_source import download
    from auto_bot_tuner.utils.sizes import readable_size

    name = arguments.id
    there = next((model for model in cached("model") if model.name == name), None)
    left = None
    if there is None or arguments.update:
        wanted, left = wanted_of_model(name, list_repository(name, "model"), arguments.trust_remote_code)
        print(f"{name}: {len(wanted.files)} files, {readable_size(wanted.total)}", flush=True)
        if there is None:
            check_room(name, wanted.total)
        with one_bar(sys.stderr.isatty()) as bar:
            folder = download(name, arguments.trust_remote_code, bar)
    else:
        print(f"{name} is already here (--update asks the hub for a newer version)")
        folder = there.path
    facts = read_facts(folder)
    show_model(name, folder, left)
    record = {"kind": "model", "name": name, "path": str(folder), "downloaded": left is not None, **asdict(facts)}
    if facts.base and is_to_fetch(facts.base):
        if is_base:
            raise UserError(
                f"{name} is an adapter itself, on {neutral(facts.base)}: an adapter of an adapter cannot be loaded"
            )
        print(f"\nIts base model, {neutral(facts.base)}:")
        record["base_model"] = fetch_model(ModelArguments(id=facts.base, update=arguments.update), is_base=True)
    return {**record, "size_bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file())}


def show_model(name: str, folder: Path, left: Listing | None) -> None:
    """Architecture, parameters, files, place, and what to do with it."""
    from auto_bot_tuner.hub.model_facts import read_facts
    from auto_bot_tuner.utils.paths import short
    from auto_bot_tuner.utils.sizes import readable_size

    facts = read_facts(folder)
    sizes = sorted(((path.stat().st_size, path.name) for path in folder.iterdir() if path.is_file()), reverse=True)
    shape = [f"{facts.layers} layers"] * bool(facts.layers) + [f"context {facts.context:,}"] * bool(facts.context)
    labelled("architecture", ", ".join([facts.architecture or "unknown", *shape]))
    labelled("parameters", f"{facts.parameters:,} ({facts.dtype})")
    labelled("files", f"{len(sizes)}, {readable_size(sum(size for size, _ in sizes))}: {names([n for _, n in sizes])}")
    if left and left.files:
        labelled("left there", f"{len(left.files)}, {readable_size(left.total)}: {names(list(left.files))}")
    labelled(
        "chat format", "its own template" if facts.has_chat_template else "none of its own: the built-in one is used"
    )
    if facts.own_code:
        labelled("own code", own_code_words(name, folder, facts.own_code))
    labelled("lies in", short(folder))
    if facts.is_encoder_decoder:
        labelled("next", "nothing here trains it: it is an encoder-decoder; choose a decoder (GPT-2, Llama, Qwen …)")
    elif facts.is_reward_model:
        print(f"{NEXT}python main.py evaluate reward --model {name} --dataset PAIRS.jsonl")
    else:
        print(f"{NEXT}python main.py train-sft --model {name} --dataset ROWS.jsonl")


def own_code_words(name: str, folder: Path, files: tuple[str, ...]) -> str:
    """What the repository would have run, and whether it may."""
    from huggingface_hub import constants

    state = "fetched" if all((folder / file).is_file() for file in files) else "not fetched, never run"
    return (
        f"{names(list(files))} ({state}): without them the model may not load; with --trust-remote-code they run "
        f"on this machine with your rights. Read them first: {constants.ENDPOINT}/{name}/tree/main"
    )


def fetch_dataset(arguments: DatasetArguments) -> dict[str, Any]:
    """Fetch, say what it is; the record for `--json`."""
    from auto_bot_tuner.data.dataset_facts import DatasetFacts, prepared, uses
    from auto_bot_tuner.hub.cache import cached
    from auto_bot_tuner.hub.download import check_room, list_repository
    from auto_bot_tuner.utils.sizes import readable_size

    name, subset = arguments.id, arguments.subset
    there = next((entry for entry in cached("dataset") if entry.name == name), None)
    facts = prepared(there.path, subset) if there else []
    is_here = bool(facts) and not arguments.update
    if is_here:
        print(f"{name} is already here (--update asks the hub for a newer version)")
    else:
        listing = list_repository(name, "dataset")
        print(f"{name}: {len(listing.files)} files, {readable_size(listing.total)} at the hub", flush=True)
        check_room(name, 2 * listing.total)  # the files, and the rows made of them

        from auto_bot_tuner.data.hub import load_from_hub

        splits = load_from_hub(name, subset, shows_progress=sys.stderr.isatty())
        columns = tuple(next(iter(splits.values())).column_names)
        facts = [DatasetFacts({split: len(rows) for split, rows in splits.items()}, columns, subset)]
        there = next((entry for entry in cached("dataset") if entry.name == name), None)
    for found in facts:
        show_dataset(name, found, there)
    return {
        "kind": "dataset",
        "name": name,
        "path": str(there.path) if there else "",
        "size_bytes": there.size_bytes if there else 0,
        "downloaded": not is_here,
        "subsets": [{**asdict(found), "uses": [asdict(use) for use in uses(found.columns)]} for found in facts],
    }


def show_dataset(name: str, facts: DatasetFacts, there: Cached | None) -> None:
    """Splits, columns, what the rows are good for, and the command that trains on them."""
    from auto_bot_tuner.data.dataset_facts import uses
    from auto_bot_tuner.utils.paths import short
    from auto_bot_tuner.utils.sizes import readable_size

    subset = f" --subset {facts.subset}" if facts.subset else ""
    if subset:
        labelled("subset", facts.subset)
    labelled("rows", ", ".join(f"{split} {rows:,}" for split, rows in facts.splits.items()))
    labelled("columns", ", ".join(facts.columns))
    found = uses(facts.columns)
    labelled("format", "; ".join(f"{use.format} ({use.verb})" for use in found) or "none that is known here")
    if there:
        labelled("lies in", f"{short(there.path)} ({readable_size(there.size_bytes)} with the files it was made of)")
    if found:
        needs = f" {found[0].needs}" if found[0].needs else ""
        print(f"{NEXT}python main.py {found[0].verb} --model gpt2 --dataset {name}{subset}{needs}")
    else:
        labelled("next", f"rename its columns in a copy (docs/sft.md), or look: inspect --dataset {name} --model gpt2")


def names(all_of_them: list[str], shown: int = 3) -> str:
    """The first few names."""
    return ", ".join(all_of_them[:shown]) + (" …" if len(all_of_them) > shown else "")
