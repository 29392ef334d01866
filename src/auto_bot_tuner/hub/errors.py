"""What went wrong at the hub, and the cure, in one line; for a name that is not there, the names that are like it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal

from auto_bot_tuner.assets import BUNDLED_DATASETS, BUNDLED_MODELS
from auto_bot_tuner.hub.cache import cached
from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.terminal import neutral

Kind = Literal["model", "dataset"]

WORDS: dict[Kind, str] = {"model": "model", "dataset": "data set"}
BUNDLED: dict[Kind, tuple[str, ...]] = {"model": tuple(BUNDLED_MODELS), "dataset": tuple(BUNDLED_DATASETS)}
OFFLINE_CURE: dict[Kind, str] = {
    "model": "connect to the network, or name a local folder or the bundled model, tiny",
    "dataset": "check the network, name a local file, or use the bundled data: --dataset tiny-instructions (for SFT), "
    "tiny-preferences, tiny-prompts (for PPO) or tiny-puzzles (for GRPO)",
}
FETCH_CURE = "connect to the network and run the same again; what is here already: python main.py download list"
# What huggingface_hub runs into where the answer is not the hub's: a login page, a proxy's, another server's.
NONSENSE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
LIKE = 0.6  # least similarity (difflib's ratio) of a name that is proposed
ASKED = 20  # names per search at the hub


def hub_error(name: str, error: Exception, kind: Kind = "model", is_needed: bool = True) -> UserError:
    """The one line for what huggingface_hub raised while `name` was fetched.

    Args:
        is_needed: something is to be done with it, so something else in its place is a cure; `download` only fetches.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils import httpx

    if isinstance(error, GatedRepoError):
        return gated(name, kind)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):  # the hub hides private ones in the same way
        return not_found(name, kind)
    if isinstance(error, (LocalEntryNotFoundError, ConnectionError, TimeoutError, httpx.TransportError)):
        return unreachable(name, kind, is_needed)
    if isinstance(error, HfHubHTTPError):
        instead = f", or name a local {'folder' if kind == 'model' else 'file'}" if is_needed else ""
        return UserError(f"the hub refused {WORDS[kind]} {name} ({one_line(error)}): try again later{instead}")
    if isinstance(error, NONSENSE) and not isinstance(error, OSError):
        return no_hub(error)
    cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else one_line(error)
    return UserError(
        f"could not download {name} into {constants.HF_HUB_CACHE} ({cause}): "
        "free some space or set HF_HOME to another folder, then run again; what has arrived is kept"
    )


def no_hub(error: Exception) -> UserError:
    from huggingface_hub import constants

    return UserError(
        f"{constants.ENDPOINT} does not answer as the hub does ({one_line(error)}): check the network (a login page? a "
        "proxy?) and HF_ENDPOINT"
    )


def gated(name: str, kind: Kind) -> UserError:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    what = f"the hub model {name}" if kind == "model" else f"data set {name!r}"
    login = "then run again (you are logged in)" if get_token() else "then log in with `hf auth login`"
    return UserError(f"{what} is gated: accept its terms at {page}, {login}")


def not_found(name: str, kind: Kind) -> UserError:
    from huggingface_hub import get_token

    near = near_names(name, kind)
    login = "ask its owner for access" if get_token() else "log in with `hf auth login`"
    advice = f"did you mean {near}?" if near else f"check the spelling, or {login} if it is private"
    if kind == "model":
        return UserError(
            f"no model {name}: it is no folder here, no bundled name ({', '.join(BUNDLED[kind])}) and not on the hub; "
            f"{advice}"
        )
    return UserError(
        f"no data set {name!r}: it is no file here, no bundled name ({', '.join(BUNDLED[kind])}) and not on the "
        f"hub; {advice}"
    )


def unreachable(name: str, kind: Kind, is_needed: bool = True) -> UserError:
    from huggingface_hub import constants

    cure = OFFLINE_CURE[kind] if is_needed else FETCH_CURE

    near = like(name, [*BUNDLED[kind], *(entry.name for entry in cached(kind))])
    meant = f"did you mean {near}? Else " if near else ""
    if constants.HF_HUB_OFFLINE:
        return UserError(
            f"{WORDS[kind]} {name} is not (wholly) cached, and HF_HUB_OFFLINE is set, so the hub is not asked: "
            f"{meant}unset it{f', or {cure}' if is_needed else ' and run the same again'}"
        )
    if kind == "model":
        nowhere = f" and {name} is no folder here nor (wholly) cached" if is_needed else f" for {name}"
        return UserError(f"cannot reach the model hub ({constants.ENDPOINT}){nowhere}: {meant}{cure}")
    return UserError(f"cannot reach the hub at {constants.ENDPOINT} for data set {name!r}: {meant}{cure}")


def near_names(name: str, kind: Kind) -> str:
    """Names like this one: bundled, cached, trained here, or by the hub's search; empty where there are none."""
    here = [*BUNDLED[kind], *(entry.name for entry in cached(kind))]
    if kind == "model":
        here += [str(folder) for folder in Path("checkpoints").glob("*") if folder.is_dir()]
    return like(name, here) or like(name, search(name, kind))


def like(name: str, names: list[str]) -> str:
    """At most two of `names` that are like `name`, with or without its owner, the likest first."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, name.lower(), candidate.lower()).ratio()
        own = difflib.SequenceMatcher(None, name.split("/")[-1].lower(), candidate.split("/")[-1].lower()).ratio()
        # Without an owner (gtp2) only the names can be compared; with one it counts a little.
        return own if "/" not in name else max(whole, 0.9 * own)

    found = sorted(
        ((likeness(candidate), candidate) for candidate in dict.fromkeys(names) if candidate != name), reverse=True
    )
    return " or ".join(neutral(candidate) for score, candidate in found[:2] if score >= max(LIKE, found[0][0] - 0.1))


def search(name: str, kind: Kind) -> list[str]:
    """Names on the hub that may have been meant. Its search finds parts of words, so parts are asked for."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    owner, _, own = name.rpartition("/")
    api = HfApi()
    find: Any = api.list_models if kind == "model" else api.list_datasets
    questions = [{"search": own}, {"search": own[: max(3, len(own) // 2)]}, *([{"author": owner}] if owner else [])]
    found: list[str] = []
    try:
        for question in questions:
            found += [entry.id for entry in find(**question, sort="downloads", limit=ASKED)]
    except (HfHubHTTPError, httpx.HTTPError, OSError, *NONSENSE):
        pass  # it is a help, not the work
    return found
