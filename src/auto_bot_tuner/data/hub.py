"""Data sets by name from the Hugging Face hub, and what to say when that fails."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from auto_bot_tuner.hub.errors import NONSENSE, gated, no_hub, not_found, unreachable
from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.terminal import neutral

SHOWN = 8  # subsets in a message


def load_from_hub(name: str, subset: str = "", shows_progress: bool = False) -> dict[str, Any]:
    """All splits of a hub data set as `{split name: datasets.Dataset}`, downloaded once and cached by `datasets`.

    Raises `UserError`: no network, no such data set, gated or private, a subset to choose, unreadable files.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx

    try:
        with _quietly(not _is_reachable(), shows_progress):
            return dict(datasets.load_dataset(name, subset or None))
    except DatasetNotFoundError as error:
        raise (gated if "is a gated dataset" in str(error) else not_found)(name, "dataset") from error
    except (ConnectionError, httpx.TransportError, TimeoutError) as error:
        raise unreachable(name, "dataset") from error
    except HFValidationError as error:
        raise UserError(f"data set {name!r} is no hub id (owner/name): {one_line(error)}; mend the name") from error
    except HfHubHTTPError as error:
        raise UserError(f"the hub refused data set {name!r} ({one_line(error)}): try again later") from error
    except ValueError as error:  # which subsets there are, and which is missing, stands in the message
        raise UserError(f"data set {name!r} {_subsets(error, subset)}; choose one with --subset") from error
    except NONSENSE as error:
        raise no_hub(error) from error
    except (DatasetsError, RuntimeError, OSError) as error:
        cause = error.__cause__ or error
        if _is_full(error) or _is_full(cause):
            raise UserError(
                f"no room for data set {name!r} in {constants.HF_HOME}: free some space, or set HF_HOME to another "
                "folder, then run again; what has arrived is kept"
            ) from error
        raise UserError(
            f"data set {name!r} cannot be loaded ({one_line(cause)}): try again, or name a file of it on this machine"
        ) from error


def _is_reachable() -> bool:
    """One question, answered at once: the libraries would ask six times, with growing pauses."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import httpx

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except httpx.TransportError:
        return False
    return True


def _subsets(error: ValueError, subset: str) -> str:
    """Which subsets there are, from the list in the library's message."""
    listed = re.search(r"\[('[^\]]*')\]", str(error))
    if listed is None:
        return f"cannot be loaded: {one_line(error)}"
    names = re.findall(r"'([^']*)'", listed[1])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    known = neutral(", ".join(names[:SHOWN])) + more
    return f"has no subset {subset!r}, only {known}" if subset else f"has several subsets ({known})"


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _quietly(offline: bool, shows_progress: bool) -> Iterator[None]:
    """No progress bars unless asked for, no "you are not logged in"; where `offline`, what is cached serves."""
    import datasets
    from huggingface_hub import logging as hub_logging

    verbosity, was_offline = hub_logging.get_verbosity(), datasets.config.HF_HUB_OFFLINE
    hub_logging.set_verbosity_error()
    if not shows_progress:
        datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        datasets.enable_progress_bars()
        hub_logging.set_verbosity(verbosity)
