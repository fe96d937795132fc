"""Files that are whole whenever they are under their name."""

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
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
