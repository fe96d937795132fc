"""Inputs as they lie on disk: a folder of images, or texts in a .txt, .jsonl or Parquet file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
# What convert("RGB") keeps the meaning of; 16-bit and floating modes would be cut at 255.
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Images:
    """The images of a folder and of the folders in it, in the order of their relative paths.

    Example: ``Images(Path("photos"), ("cat/1.png", "dog/1.png")).load(0, 2)``, two PIL images in RGB.
    """

    folder: Path
    files: tuple[str, ...]

    kind = "images"

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the relative path, the size and the bytes of every file: every file is read once."""
        digest = hashlib.sha256()
        for name in self.files:
            path = self.folder / name
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def load(self, start: int, stop: int) -> list[Image.Image]:
        """The images from start to stop, decoded, in RGB. Raises: ValueError naming a file that is no 8-bit image."""
        return [self._decode(self.folder / name) for name in self.files[start:stop]]

    def _decode(self, path: Path) -> Image.Image:
        from PIL import Image

        try:
            with Image.open(path) as image:
                if image.mode in _EIGHT_BIT_MODES:
                    return image.convert("RGB")
                got = f"mode {image.mode}"
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow reports damage as any of these
            got = str(error)
        raise ValueError(f"[extract] expected {path} as an image of 8 bits per channel, got {got}")


@dataclass(frozen=True)
class Texts:
    """Texts in the order of their file, none of them blank.

    Example: ``Texts(Path("a.txt"), ("one line", "another"))``.
    """

    path: Path
    texts: tuple[str, ...]

    kind = "text"

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over all texts: the same for the same texts, whatever file they come from."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(json.dumps(text).encode() + b"\n")
        return digest.hexdigest()


def load_inputs(path: str | Path, *, column: str = "text") -> Images | Texts:
    """The inputs at a path.

    Example: ``len(load_inputs("sentences.jsonl"))``, the number of its lines.

    Parameters: ``path``, a folder of images (at any depth), a ``.txt`` file with one text per line, a ``.jsonl`` file
        with one object per line, or a ``.parquet`` file; ``column``, the field of the last two that holds the text.
    Returns: Images or Texts, at least one. An input's position is its sample id.
    Raises: FileNotFoundError: there is nothing at the path. ValueError: something else than that, a blank text, a line
        without the field; the message names the line.
    """
    path = Path(path)
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        files = tuple(sorted(file.relative_to(path).as_posix() for file in found))
        if not files:
            raise ValueError(f"[extract] expected images ({', '.join(IMAGE_SUFFIXES)}) in the folder {path}, got none")
        return Images(path, files)
    if not path.exists():
        raise FileNotFoundError(f"[extract] expected data, got no file or folder {path}")
    readers = {".txt": _lines, ".jsonl": _json_lines, ".parquet": _parquet_column}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"[extract] expected data as a folder of images or a {', '.join(TEXT_SUFFIXES)} file, got {path}"
        )
    texts = []
    for number, text in enumerate(reader(path, column), 1):
        if not isinstance(text, str) or not text.strip():
            what = "an empty one" if isinstance(text, str) else json.dumps(text, default=str)
            raise ValueError(f"[extract] expected a text in line {number} of {path}, got {what}")
        texts.append(text)
    if not texts:
        raise ValueError(f"[extract] expected at least one text in {path}, got none")
    return Texts(path, tuple(texts))


def _lines(path: Path, column: str) -> Iterator[str]:
    try:
        # Not splitlines, which would also cut at characters that belong to a text, such as U+2028.
        with open(path, encoding="utf-8-sig", newline=None) as file:
            yield from (line.removesuffix("\n") for line in file)
    except UnicodeDecodeError as error:
        raise ValueError(f"[extract] expected {path} in UTF-8, got {error}") from None


def _json_lines(path: Path, column: str) -> Iterator[Any]:
    for number, line in enumerate(_lines(path, column), 1):
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ValueError(f"[extract] expected JSON in line {number} of {path}, got {error}") from None
        if not isinstance(content, dict) or column not in content:
            got = f"the fields {', '.join(content)}" if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"[extract] expected an object with {column!r} in line {number} of {path}, got {got}")
        yield content[column]


def _parquet_column(path: Path, column: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise ValueError(f"[extract] expected a column {column!r} in {path}, got {', '.join(names)}")
            for batch in file.iter_batches(columns=[column]):
                yield from batch.column(0).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"[extract] expected a Parquet file, got {path}: {error}") from None
