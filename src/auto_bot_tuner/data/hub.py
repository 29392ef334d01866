"""Data sets by name from the Hugging Face hub, and what to say when that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from auto_bot_tuner.assets import BUNDLED_DATASETS
from auto_bot_tuner.utils.errors import UserError, one_line

OFFLINE_CURE = (
    "check the network, name a local file, or use the bundled data: --dataset tiny-instructions (for SFT), "
    "tiny-preferences, tiny-prompts (for PPO) or tiny-puzzles (for GRPO)"
)


def load_from_hub(name: str, subset: str = "") -> dict[str, Any]:
    """All splits of a hub data set as `{split name: datasets.Dataset}`, downloaded once and cached by `datasets`.

    Raises `UserError`: no network, no such data set, gated or private, a subset to choose, unreadable files.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.utils import httpx

    try:
        with _quietly(offline=not _is_reachable()):
            return dict(datasets.load_dataset(name, subset or None))
    except DatasetNotFoundError as error:
        raise UserError(_not_found(name, error, constants.ENDPOINT)) from error
    except (ConnectionError, httpx.HTTPError, TimeoutError) as error:
        raise UserError(
            f"cannot reach the hub at {constants.ENDPOINT} for data set {name!r}: {OFFLINE_CURE}"
        ) from error
    except ValueError as error:  # which subsets there are, and which is missing, stands in the message
        raise UserError(f"data set {name!r}: {one_line(error)}; choose one with --subset") from error
    except (DatasetsError, RuntimeError, OSError) as error:
        cause = error.__cause__ or error
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


@contextmanager
def _quietly(offline: bool) -> Iterator[None]:
    """No progress bars and no "you are not logged in"; where `offline`, what was downloaded before serves."""
    import datasets
    from huggingface_hub import logging as hub_logging

    verbosity, was_offline = hub_logging.get_verbosity(), datasets.config.HF_HUB_OFFLINE
    hub_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        datasets.enable_progress_bars()
        hub_logging.set_verbosity(verbosity)


def _not_found(name: str, error: Exception, endpoint: str) -> str:
    if "is a gated dataset" in str(error):
        page = f"{endpoint}/datasets/{name}"
        return f"data set {name!r} is gated: accept its terms at {page}, then log in with `hf auth login`"
    return (
        f"no data set {name!r}: it is no file here, no bundled name ({', '.join(BUNDLED_DATASETS)}) and not on the "
        "hub; check the spelling, or log in with `hf auth login` if it is private"
    )
