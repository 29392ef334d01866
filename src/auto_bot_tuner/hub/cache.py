"""What was downloaded from the hub and lies on this machine: models, and data sets.

Two caches hold it. `$HF_HOME/hub` has the files of repositories as they came; `$HF_HOME/datasets` has the rows that
`datasets` made of them, by which a data set is to be had without a network. No heavy imports: a menu asks this.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

Kind = Literal["model", "dataset"]

INDEX = "model.safetensors.index.json"  # of a model in several files: which tensor is where
SINGLE_FILES = ("model.safetensors", "adapter_model.safetensors")
FORMS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Cached:
    """A model or data set from the hub that needs no network any more."""

    name: str  # its hub id
    kind: Kind
    size_bytes: int  # on this disk: of a data set the files and the rows made of them
    last_used: float  # seconds since 1970
    path: Path  # a model's folder as `find_model` gives it; a data set's rows, or its files where no rows were made


def cached(kind: Kind) -> list[Cached]:
    """What there is of one kind, by name. No cache, an empty or a damaged one: what can be read of it.

    A model whose download was cut is none: only those are listed whose weights are all there.
    """
    repositories = _repositories(kind)
    if kind == "model":
        found = [_model(repository) for repository in repositories]
        return sorted((model for model in found if model is not None), key=_by_name)
    files = [_dataset_files(repository) for repository in repositories if _has_rows(repository)]
    return sorted(_with_rows(files), key=_by_name)


def is_cached(name: str, kind: Kind) -> bool:
    """Whether anything of this hub id has been downloaded: then the name is known to mean it."""
    return (hub_folder() / f"{kind}s--{name.replace('/', '--')}").is_dir()


def hub_folder() -> Path:
    """The folder with the files of repositories: $HF_HUB_CACHE, else $HF_HOME/hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def rows_folder() -> Path:
    """The folder with the rows that `datasets` made: $HF_DATASETS_CACHE, else $HF_HOME/datasets."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()


def has_all_weights(folder: Path) -> bool:
    """Whether a model's or an adapter's folder has its config and every file of its weights, in safetensors."""
    if not any((folder / form).is_file() for form in FORMS):
        return False
    if any((folder / name).is_file() for name in SINGLE_FILES):
        return True
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = set(index["weight_map"].values())
        return bool(names) and all((folder / name).is_file() for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _by_name(entry: Cached) -> str:
    return entry.name.lower()


def _repositories(kind: Kind) -> list[CachedRepoInfo]:
    """Repositories that huggingface_hub finds whole; what is damaged it leaves out."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(hub_folder()).repos
    except (CacheNotFound, OSError, ValueError):  # ValueError: the cache is a file, not a folder
        return []
    return [repository for repository in repositories if repository.repo_type == kind]


def _model(repository: CachedRepoInfo) -> Cached | None:
    """The newest snapshot with all weights; `main`, where it is one."""
    whole = [revision for revision in repository.revisions if has_all_weights(revision.snapshot_path)]
    if not whole:
        return None
    chosen = max(whole, key=lambda revision: ("main" in revision.refs, revision.last_modified))
    return Cached(repository.repo_id, "model", repository.size_on_disk, repository.last_accessed, chosen.snapshot_path)


def _has_rows(repository: CachedRepoInfo) -> bool:
    """More than the card: that much is there even of a data set that could not be loaded."""
    names = {file.file_name for revision in repository.revisions for file in revision.files}
    return bool(names - {"README.md", ".gitattributes"})


def _dataset_files(repository: CachedRepoInfo) -> Cached:
    newest = max(repository.revisions, key=lambda revision: revision.last_modified)
    return Cached(
        repository.repo_id, "dataset", repository.size_on_disk, repository.last_accessed, newest.snapshot_path
    )


def _with_rows(files: list[Cached]) -> list[Cached]:
    """The data sets of both caches, one entry each: the files together with the rows made of them."""
    entries = {_key(entry.name): entry for entry in files}
    for name, folder in _row_folders():
        raw = entries.get(_key(name))
        if raw is None and "/" not in name:
            continue  # rows of a local file stand under the name of its format (json, csv …): no hub data set
        size, used = _size_and_use(folder)
        if raw is not None:
            name, size, used = raw.name, size + raw.size_bytes, max(used, raw.last_used)
        entries[_key(name)] = Cached(name, "dataset", size, used, folder)
    return list(entries.values())


def _key(name: str) -> str:
    """`datasets` writes MyData as my_data: what both spellings have in common."""
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def _row_folders() -> Iterator[tuple[str, Path]]:
    """(hub id, folder) of each data set that `datasets` has made rows of: OWNER___NAME/CONFIG/VERSION/HASH/."""
    try:
        folders = sorted(rows_folder().iterdir())
    except OSError:
        return
    for folder in folders:
        if next(folder.glob("*/*/*/dataset_info.json"), None) is not None:
            yield folder.name.replace("___", "/", 1), folder


def _size_and_use(folder: Path) -> tuple[int, float]:
    stats = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                stats.append(path.stat())
        except OSError:  # deleted meanwhile, or not ours to read
            continue
    return sum(stat.st_size for stat in stats), max((max(s.st_atime, s.st_mtime) for s in stats), default=0.0)
