"""Data sets by name from the Hugging Face hub, and what to say when that fails."""

from __future__ import annotations

from typing import Any

from auto_bot_tuner.utils.errors import UserError, one_line

OFFLINE_CURE = "check the network, name a local file, or use the bundled data: --dataset tiny-instructions"


def load_from_hub(name: str, subset: str = "") -> dict[str, Any]:
    """All splits of a hub data set as `{split name: datasets.Dataset}`, downloaded once and cached by `datasets`.

    Raises `UserError`: no network, no such data set, gated or private, a subset to choose, unreadable files.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import constants
    from huggingface_hub.utils import httpx

    datasets.disable_progress_bars()
    try:
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
    finally:
        datasets.enable_progress_bars()


def _not_found(name: str, error: Exception, endpoint: str) -> str:
    if "gated" in str(error):
        page = f"{endpoint}/datasets/{name}"
        return f"data set {name!r} is gated: accept its terms at {page}, then log in with `hf auth login`"
    return (
        f"no data set {name!r}: it is no file here, no bundled name (tiny-instructions, tiny-text) and not on the hub; "
        "check the spelling, or log in with `hf auth login` if it is private"
    )
