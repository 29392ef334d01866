"""Names of files and folders as people write them."""

from __future__ import annotations

from pathlib import Path

from auto_bot_tuner.utils.errors import UserError


def expanded(name: str | Path) -> Path:
    """The path of a name: ~ and ~user stand for homes.

    Raises:
        UserError: there is no such user here, or nobody has a home.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        user = Path(name).parts[0]
        cause = "your home is not known" if user == "~" else f"there is no user {user[1:]} here"
        raise UserError(f"{name}: {cause}, so {user} is no folder: write the whole path, or ./{name}") from error


def short(folder: Path) -> str:
    """A folder with ~ for the home: shorter, and nothing private on a screenshot."""
    try:
        return f"~/{folder.relative_to(Path.home())}"
    except ValueError:
        return str(folder)
