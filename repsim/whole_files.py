"""Files that are whole whenever they are under their name, also after a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside the file to write to; what is there when the block ends well takes the place of the file.

        with whole_file(path) as temporary:
            temporary.write_bytes(data)

    Raises:
        Whatever the block raises, and OSError; nothing is left beside the file then, and the file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two processes do not write into one file
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def left_behind(path: Path) -> list[Path]:
    """What writers of the file that were killed have left beside it; one that is at work has such a file too."""
    return sorted(path.parent.glob(f".{path.name}.*.tmp"))
