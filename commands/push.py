"""Put a trained model onto the hub, with its card: checked, shown, asked for, sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import tyro
from pydantic.dataclasses import dataclass

from auto_bot_tuner.hub.cache import INDEX
from auto_bot_tuner.hub.errors import NONSENSE, no_hub
from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError, UserError, one_line
from auto_bot_tuner.utils.model_source import WEIGHTS
from auto_bot_tuner.utils.paths import expanded
from auto_bot_tuner.utils.terminal import neutral
from commands.labelled import labelled

if TYPE_CHECKING:
    from auto_bot_tuner.hub.upload import Parcel


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """Put a trained model onto the hub, with its card."""

    # A run's folder, its final/, or another folder with a model, an adapter or a reward model.
    checkpoint: tyro.conf.Positional[str]
    # Where to: owner/name, or a name alone, which is made yours.
    repo: tyro.conf.Positional[str]
    # Only you (and your organisation) can see it. Without this everybody can.
    private: bool = False
    # What the commit says. Empty: which folder it came from.
    message: str = ""
    # Do not ask before a public push.
    yes: bool = False
    # Check and show what would be sent; ask the hub nothing, send nothing.
    dry_run: bool = False


def run(arguments: Arguments) -> None:
    """Check, show, ask, send.

    Raises:
        UserError: the folder is not fit, or the hub refuses; the message says what to do.
        UsageError: a wrong name, or a public push that nobody can be asked about.
    """
    from auto_bot_tuner.hub.upload import pack

    check_name(arguments.repo)
    parcel = pack(expanded(arguments.checkpoint))
    show(parcel)
    if arguments.dry_run:
        print(f"Dry run: nothing was sent to {arguments.repo}.")
        return
    with hub_refusals(arguments.repo):
        repo = full_name(arguments.repo)
        there = look_there(repo, arguments.private)
        is_public = not (arguments.private or (there and there.private))
        if is_public and not arguments.yes and not is_agreed(repo):
            print("Nothing was sent.")
            return
        others = [file.rfilename for file in there.siblings or []] if there else []
        url = send(parcel, repo, arguments, [name for name in others if is_stale(name, parcel)])
    print(f"\n{len(parcel.files)} files are at {url}" + ("" if is_public else ", for you alone to see"))
    use = f"evaluate reward --model {repo} --dataset PAIRS.jsonl" if parcel.is_reward_model else f"chat {repo}"
    print(f"Use it anywhere: python main.py {use}")


def check_name(repo: str) -> None:
    """
    Raises:
        UsageError: no hub would take this name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(
            f"{repo!r} is no name for the hub: write owner/name, of letters, digits, - _ and . ({one_line(error)})"
        ) from error


def show(parcel: Parcel) -> None:
    """Files, sizes, and what is sent otherwise than it lies here."""
    from auto_bot_tuner.utils.paths import short
    from auto_bot_tuner.utils.sizes import readable_size

    print(f"From {short(parcel.folder.resolve())}:")
    for name in sorted(parcel.files, key=parcel.size, reverse=True):
        note = "  (see the notes)" if isinstance(parcel.files[name], bytes) else ""
        print(f"  {readable_size(parcel.size(name)):>8}  {neutral(name)}{note}")
    print(f"  {readable_size(sum(map(parcel.size, parcel.files))):>8}  in all, {len(parcel.files)} files")
    if parcel.left_out:
        labelled("Not sent:", ", ".join(parcel.left_out), 10)
    for remark in parcel.remarks:
        labelled("Note:", remark, 6)


def full_name(repo: str) -> str:
    """`owner/name`; the owner is who is logged in, unless given.

    Raises:
        UserError: nobody is logged in, or the token may only read.
    """
    from huggingface_hub import HfApi, get_token

    cure = "log in with `hf auth login` and a token of the kind write, or set HF_TOKEN"
    if get_token() is None:
        raise UserError(f"nobody is logged in on the hub: {cure}")
    me = HfApi().whoami()
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"the token of {me['name']} may only read: {cure}")
    return repo if "/" in repo else f"{me['name']}/{repo}"


def look_there(repo: str, private: bool) -> Any:
    """What the hub says of the repository; None where it is new.

    Raises:
        UserError: it is public, and the push is to be private.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().model_info(repo)
    except RepositoryNotFoundError:
        return None
    if private and not info.private:
        raise UserError(f"{repo} exists already and is public: choose another name, or make it private on its page")
    return info


def is_stale(name: str, parcel: Parcel) -> bool:
    """Weights of an earlier push that this one does not overwrite: two models in one folder would be neither.

    Only names that a model or an adapter is loaded by, and only in the folders that a push writes to: whatever else
    somebody keeps in the repository stays.
    """
    inside, _, own = name.rpartition("/")
    is_loaded = any(fnmatch(own, pattern) for pattern in (*WEIGHTS, INDEX))
    return is_loaded and inside in ("", "adapter") and name not in parcel.files


def is_agreed(repo: str) -> bool:
    """
    Raises:
        UsageError: there is no terminal to ask at.
    """
    from huggingface_hub import constants

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(f"everybody will be able to read {repo}: confirm it with --yes, or add --private")
    try:
        answer = input(f"Everybody will be able to read {constants.ENDPOINT}/{repo}. Send it? [y/N] ")
    except EOFError:  # Ctrl-D
        print()
        return False
    return answer.strip().lower() in ("y", "yes")


def send(parcel: Parcel, repo: str, arguments: Arguments, stale: list[str]) -> str:
    """Create the repository where it is new, and commit everything in one piece; its address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    for name in stale:
        labelled("Note:", f"{name} of an earlier push is deleted there", 6)
    operations: list[Any] = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in parcel.files.items()
    ]
    api = HfApi()
    url = api.create_repo(repo, private=arguments.private or None, exist_ok=True)
    operations += [CommitOperationDelete(name) for name in stale]
    message = arguments.message or f"Upload of {parcel.folder.parent.name}/{parcel.folder.name} by auto_bot_tuner"
    api.create_commit(repo, operations, commit_message=message)
    return str(url)


@contextmanager
def hub_refusals(repo: str) -> Iterator[None]:
    """What the hub says no to inside the block, in one line with the cure."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        yield
    except UserError:
        raise
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be sent: unset it") from error
    except HfHubHTTPError as error:
        raise refusal(repo, error) from error
    except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"cannot reach the hub ({constants.ENDPOINT}): check the network and run the same again; nothing was "
            "published, as a push is one commit"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"the hub did not take it ({one_line(error)}): mend that and run the same again") from error
    except NONSENSE as error:
        raise no_hub(error) from error


def refusal(repo: str, error: Any) -> UserError:
    """What an HTTP error of the hub means for a push."""
    status = error.response.status_code
    if status == 401:
        return UserError("the hub does not know the token (expired or mistyped): log in with `hf auth login`")
    if status in (403, 404):
        return UserError(
            f"you may not write to {repo}: push to a name of your own, or ask its owner for the right to write"
        )
    if status in (413, 507):
        return UserError(f"there is no room left for {repo} at the hub: free some storage there, or push --private")
    return UserError(f"the hub refused {repo} ({one_line(error)}): try again later")
