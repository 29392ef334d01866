"""Before a download: which files of a repository are fetched, how large they are, whether they have room.

What is fetched how is `model_source.py`'s matter; this is for people who want to know before they wait.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from auto_bot_tuner.hub.cache import Kind, hub_folder
from auto_bot_tuner.hub.errors import NONSENSE, hub_error
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.local_paths import missing_path
from auto_bot_tuner.utils.model_source import patterns, refuse_without_weights
from auto_bot_tuner.utils.sizes import readable_size


@dataclass(frozen=True)
class Listing:
    """The files of a repository by name, with their sizes in bytes."""

    files: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.files.values())


def list_repository(name: str, kind: Kind) -> Listing:
    """All files of a hub repository.

    Raises:
        UserError: no such name (near ones are proposed), no access, no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        info: Any = HfApi().repo_info(name, repo_type=kind, files_metadata=True, timeout=10)
        return Listing({str(file.rfilename): int(file.size or 0) for file in info.siblings or []})
    except HFValidationError as error:
        raise missing_path(name, kind) from error
    except OfflineModeIsEnabled as error:
        raise hub_error(name, ConnectionError(), kind, is_needed=False) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, *NONSENSE) as error:
        raise hub_error(name, error, kind, is_needed=False) from error


def wanted_of_model(name: str, listing: Listing, trust_remote_code: bool) -> tuple[Listing, Listing]:
    """(what is fetched of a model, what is left at the hub).

    Raises:
        UserError: its weights are in no format that is read here.
    """
    refuse_without_weights(name, listing.files)
    fetched = {
        file: size
        for file, size in listing.files.items()
        if "/" not in file and any(fnmatch(file, pattern) for pattern in patterns(trust_remote_code))
    }
    left = {file: size for file, size in listing.files.items() if file not in fetched}
    return Listing(fetched), Listing(left)


def check_room(name: str, size_bytes: int) -> None:
    """The disk has room for so much.

    Raises:
        UserError: it has not.
    """
    folder = hub_folder()
    there = next(part for part in (folder, *folder.parents) if part.is_dir())
    free = shutil.disk_usage(there).free
    if size_bytes > free:
        raise UserError(
            f"{name} takes {readable_size(size_bytes)}, and {there} has {readable_size(free)} free: free some space "
            "(hf cache ls, hf cache rm), or set HF_HOME to a folder on another disk"
        )


@contextmanager
def one_bar(is_wanted: bool) -> Iterator[Any]:
    """A class of progress bars for `download`, gone after the block: one bar for all bytes, where
    huggingface_hub draws three. None where no bar is wanted."""
    if not is_wanted:
        yield None
        return
    from huggingface_hub.utils import tqdm

    drawn: list[Any] = []

    class OneBar(tqdm):
        """The bar of the bytes; of the files and of the transfer's other half nothing is drawn."""

        def __init__(self, *args: Any, **keywords: Any) -> None:
            is_bytes = keywords.get("unit") == "B" and not str(keywords.get("name", "")).endswith(".transfer")
            if is_bytes:
                keywords |= {"desc": "  fetched", "bar_format": None, "leave": False}
                drawn.append(self)
            else:
                keywords["disable"] = True
            super().__init__(*args, **keywords)

        def set_description(self, *_: Any, **__: Any) -> None:
            """It stays what it is: theirs speaks of "reconstructing"."""

        set_description_str = set_description

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            """The rate stands there already."""

    try:
        yield OneBar
    finally:
        for bar in drawn:
            bar.close()
