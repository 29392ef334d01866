"""Files that outlive the machine: first the data, then the name.

A process that is killed loses nothing that it has handed to the kernel. A machine that loses power does: the kernel
writes when it likes, and a rename may reach the disk before the data of the file that it names. fsync is the only
promise there is, so it stands before every rename here, and after it for the folder that holds the name.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

# A folder whose removal has begun: it has lost its name first, so that no half of it is ever found under it.
GONE = ".gone"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is the old or the new one at every moment. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # it may be a stranger's link to a file that is no business of ours
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    sync(part)
    replace(part, path)


def replace(source: Path, target: Path) -> None:
    """`os.replace`, on the disk when this returns; what `source` holds must be there before."""
    os.replace(source, target)
    sync(target.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder; of a folder the name goes first, in one piece."""
    if not path.is_dir():
        path.unlink()
        return
    gone = path.with_name(f".{path.name}{GONE}")
    shutil.rmtree(gone, ignore_errors=True)  # of a run that was killed right here
    os.replace(path, gone)
    shutil.rmtree(gone)


def sync(path: Path) -> None:
    """Wait until the data of a file, or the names in a folder, are on the disk. Raises OSError."""
    if os.name == "nt":  # Windows syncs neither folders nor files that are open for reading only
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no fsync for folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` for everything in `folder`, and for itself."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)
