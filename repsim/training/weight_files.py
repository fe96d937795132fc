"""Files of weights that are whole under their name, or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears under its name only when all of it is on the disk.

    >>> write_whole(Path("digits.safetensors"), content)

    Args:
        path: the file, in a folder that exists; one that is there is replaced.
        content: what it will hold.

    Raises:
        OSError where it cannot be written; what was there is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
