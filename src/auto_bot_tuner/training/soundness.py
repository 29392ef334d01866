"""Whether a checkpoint is what was once written: all its files, their sizes, and every byte of them."""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from auto_bot_tuner.utils.json_files import NO_JSON

STATE_FILE = "trainer_state.json"  # written last: its list of files says what a whole checkpoint holds


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that the state lists is there with its size."""
    try:
        sizes = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["files"]
        return bool(sizes) and all(
            is_inside(name) and (checkpoint / name).stat().st_size == size for name, size in sizes.items()
        )
    except (*NO_JSON, KeyError, AttributeError, TypeError):
        return False


def is_inside(name: str) -> bool:
    """A checkpoint of a stranger's may list what is none of its files."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def is_sound(checkpoint: Path) -> bool:
    """`is_whole`, and every file reads back as what was written: a disk may flip a bit, and the size stays."""
    if not is_whole(checkpoint):
        return False
    try:
        record = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        if "checksums" not in record:  # written before there were any
            return True
        said = record.pop("checksum", None)
        return bool(said == zlib.crc32(as_json(record)) and record["checksums"] == checksums(checkpoint))
    except OSError:  # a bad sector, or another process prunes
        return False


def write_state(folder: Path, record: dict[str, Any]) -> None:
    """The last file of a checkpoint: what the run carries on, and by what its files are known again."""
    found = record | {"files": file_sizes(folder), "checksums": checksums(folder)}
    (folder / STATE_FILE).write_bytes(as_json(found | {"checksum": zlib.crc32(as_json(found))}))


def as_json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=1).encode()


def file_sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in files_of(folder)}


def checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of each file but the state's: no proof against malice, and quick enough for a hundred gigabytes."""
    files = files_of(folder)
    with ThreadPoolExecutor() as threads:  # zlib lets go of Python's lock
        return dict(zip((str(path.relative_to(folder)) for path in files), threads.map(checksum, files), strict=True))


def checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            found = zlib.crc32(piece, found)
    return found


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / STATE_FILE]
