"""Images with labels and identities: the one form in which a study hands data to training, attacks and probes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Interpolation weights are multiples of 1/1024 so that enlarging whole numbers is exact integer arithmetic.
_WEIGHT_ONE = 1024


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in [0, 1] with one integer label per attribute and an identity for every input.

    Example:
        data = handwriting(16)              # images [1797, 3, 16, 16], labels [1797, 1]
        some = data.take(np.arange(100))    # images [100, 3, 16, 16]

    Args:
        images: float32 [n, channels, height, width], values in [0, 1].
        labels: int64 [n, heads], column h in [0, classes[h]).
        classes: number of classes of each head.
        attributes: name of each head.
        ids: int64 [n], distinct; within one data set the same number is the same image everywhere.

    Raises:
        TypeError: an array has another dtype.
        ValueError: shapes that disagree, values outside [0, 1], a label outside its classes, an id twice.

    The arrays are held, not copied, and must not be written to: `content_hash` is computed once.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[int, ...]
    attributes: tuple[str, ...]
    ids: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype, dimensions in (("images", np.float32, 4), ("labels", np.int64, 2), ("ids", np.int64, 1)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                got = getattr(array, "dtype", type(array).__name__)
                raise TypeError(f"[LabelledImages] expected {name} as a numpy array of {np.dtype(dtype)}, got {got}")
            if array.ndim != dimensions:
                raise ValueError(f"[LabelledImages] expected {name} with {dimensions} axes, got shape {array.shape}")
        n = len(self.images)
        if self.images.size == 0:
            raise ValueError(f"[LabelledImages] expected images that are not empty, got shape {self.images.shape}")
        for name in ("labels", "ids"):
            if len(getattr(self, name)) != n:
                got = len(getattr(self, name))
                raise ValueError(f"[LabelledImages] expected {name} with {n} rows like images, got {got}")
        heads = self.labels.shape[1]
        if heads == 0 or len(self.classes) != heads or len(self.attributes) != heads:
            raise ValueError(
                "[LabelledImages] expected one entry of classes and attributes for each column of labels, "
                f"got {heads} columns, classes {self.classes}, attributes {self.attributes}"
            )
        low, high = float(self.images.min()), float(self.images.max())
        if not (low >= 0 and high <= 1):  # written so that NaN fails too
            raise ValueError(f"[LabelledImages] expected images with values in [0, 1], got [{low:g}, {high:g}]")
        for head, (name, count) in enumerate(zip(self.attributes, self.classes, strict=True)):
            column = self.labels[:, head]
            if column.min() < 0 or column.max() >= count:
                raise ValueError(
                    f"[LabelledImages] expected labels of {name!r} in [0, {count}), "
                    f"got [{column.min()}, {column.max()}]"
                )
        if len(np.unique(self.ids)) != n:
            raise ValueError(f"[LabelledImages] expected distinct ids, got {n - len(np.unique(self.ids))} repeated")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, positions: np.ndarray) -> LabelledImages:
        """The images at the given positions, in the given order.

        Example:
            data.take(np.array([5, 2]))     # images [2, channels, height, width]

        Args:
            positions: integers [m] in [0, len(self)), distinct.

        Returns:
            LabelledImages with m images, copied.

        Raises:
            TypeError, ValueError: positions that are not distinct integers in range, or none at all.
        """
        rows = index_array(positions, len(self), "LabelledImages.take", "positions")
        return LabelledImages(self.images[rows], self.labels[rows], self.classes, self.attributes, self.ids[rows])

    def content_hash(self) -> str:
        """SHA-256 over dtype, shape and bytes of images, labels and ids; computed once.

        Example:
            data.content_hash() == data.take(np.arange(len(data))).content_hash()    # True

        Returns:
            64 hexadecimal digits.
        """
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for array in (self.images, self.labels, self.ids):
            # Little-endian everywhere, so that the hash names the content and not the machine.
            plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{plain.dtype.str}{plain.shape}".encode())
            digest.update(plain.data)
        return digest.hexdigest()


def index_array(indices: object, length: int, function: str, argument: str) -> np.ndarray:
    """Checked indices: a one-dimensional, not empty int64 array with every entry in [0, length).

    Example:
        index_array([2, 0], 3, "take", "positions")     # array([2, 0])

    Args:
        indices: whole numbers, anything numpy takes as an array (a list, a range, an array).
        length: one more than the largest index allowed.
        function, argument: the names an error message states.

    Returns:
        int64 [m].

    Raises:
        TypeError: no integers.
        ValueError: not one axis, empty, or an index out of range (the first one is named).
    """
    array = np.asarray(indices)
    if array.ndim != 1:
        raise ValueError(f"[{function}] expected {argument} with one axis, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"[{function}] expected {argument} that are not empty, got none")
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{function}] expected {argument} as integers, got {array.dtype}")
    outside = (array < 0) | (array >= length)
    if outside.any():
        where = int(np.argmax(outside))
        raise ValueError(f"[{function}] expected {argument} in [0, {length}), got {array[where]} at position {where}")
    return array.astype(np.int64)


@lru_cache(maxsize=16)
def _enlarging_weights(old: int, new: int) -> np.ndarray:
    """int64 [new, old]: Catmull-Rom weights times 1024, edges repeated, every row summing to exactly 1024."""
    weights = np.zeros((new, old), dtype=np.int64)
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        left = int(np.floor(centre))
        t = centre - left
        taps = (
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (-(t**2) + t**3) / 2,
        )
        whole = [round(tap * _WEIGHT_ONE) for tap in taps]
        whole[1 if t < 0.5 else 2] += _WEIGHT_ONE - sum(whole)  # the nearest source pixel absorbs the rounding
        for offset, tap in zip((-1, 0, 1, 2), whole, strict=True):
            weights[row, min(max(left + offset, 0), old - 1)] += tap
    return weights


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Whole-number images enlarged to size x size by smooth (Catmull-Rom) interpolation.

    Example:
        enlarge(np.zeros((5, 8, 8), dtype=np.int64), 16)    # float64 [5, 16, 16]

    Args:
        images: integers [n, side, side].
        size: the new side in pixels, at least the old one.

    Returns:
        float64 [n, size, size] in the units of the input; it may overshoot their range by a few percent. The same bits
        on every machine.
    """
    weights = _enlarging_weights(images.shape[-1], size)
    return (weights @ images.astype(np.int64) @ weights.T) / float(_WEIGHT_ONE**2)


@lru_cache(maxsize=1)
def digit_scans() -> tuple[np.ndarray, np.ndarray]:
    """The 1 797 handwritten digits of scikit-learn's `load_digits`, which come with that package.

    Example:
        scans, digits = digit_scans()       # int64 [1797, 8, 8] in 0..16, int64 [1797] in 0..9

    Returns:
        (scans, digits), ink as large numbers. Kept for the process: do not write to them.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.int64), bunch.target.astype(np.int64)


def handwriting(size: int = 16) -> LabelledImages:
    """Real handwriting: the 1 797 digits of scikit-learn's `load_digits`, light ink on a black ground.

    Example:
        data = handwriting(16)      # images [1797, 3, 16, 16], labels [1797, 1], ids 0..1796

    Args:
        size: side of the images in pixels, 8 (as scanned) to 128; smoothly enlarged.

    Returns:
        LabelledImages with the attribute "digit"; one grey channel repeated three times, values multiples of 1/255.
        An id is the position in `load_digits`.

    Raises:
        TypeError, ValueError: size is no integer in [8, 128].
    """
    if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
        raise TypeError(f"[handwriting] expected size as an integer, got {size!r}")
    if not 8 <= size <= 128:
        raise ValueError(f"[handwriting] expected size in [8, 128] pixels, got {size}")
    scans, digits = digit_scans()
    grey = np.rint(np.clip(enlarge(scans, int(size)) / 16, 0, 1) * 255).astype(np.float32) / np.float32(255)
    images = np.repeat(grey[:, None], 3, axis=1)
    return LabelledImages(images, digits[:, None].copy(), (10,), ("digit",), np.arange(len(digits), dtype=np.int64))


def contact_sheet(
    images: np.ndarray,
    *,
    columns: int = 10,
    scale: int = 2,
    captions: Sequence[str] | None = None,
    path: str | Path | None = None,
) -> Image.Image:
    """Images side by side in rows, to be looked at, each with its caption below.

    Example:
        data = ColorShapeDigit()
        contact_sheet(data.images(range(40)), captions=data.captions(range(40)), path="sheet.png")

    Args:
        images: float [n, 3 or 1, height, width], values in [0, 1].
        columns: images in a row.
        scale: screen pixels per image pixel, along each side.
        captions: one line of text per image, the same size for all, chosen so that the longest fits; None for none.
        path: where to save it as well; the suffix picks the format. None saves nothing.

    Returns:
        The sheet as an RGB `PIL.Image.Image`; empty places are light grey.

    Raises:
        TypeError, ValueError: no images, another shape, values outside [0, 1], columns or scale below 1,
            a number of captions that is not n.
    """
    from PIL import Image, ImageDraw, ImageFont

    array = np.asarray(images)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.size == 0:
        raise ValueError(f"[contact_sheet] expected images [n, 3 or 1, height, width], got shape {array.shape}")
    if array.dtype.kind != "f":
        raise TypeError(f"[contact_sheet] expected images as floats in [0, 1], got {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"[contact_sheet] expected images with values in [0, 1], got [{array.min():g}, {array.max():g}]"
        )
    for name, value in (("columns", columns), ("scale", scale)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"[contact_sheet] expected {name} as an integer of at least 1, got {value!r}")
    n, _, height, width = array.shape
    if captions is not None and len(captions) != n:
        raise ValueError(f"[contact_sheet] expected captions for {n} images, got {len(captions)}")

    gap = 2 * scale
    cell_width, cell_height = width * scale, height * scale
    points = 0.0
    if captions is not None:  # one size for all: the largest up to 14 at which the longest caption fits
        longest = max(captions, key=len)
        points = 14.0
        while points > 6 and ImageFont.load_default(points).getlength(longest) > cell_width + gap - 2:
            points -= 0.5
    font = ImageFont.load_default(points) if captions is not None else None
    caption_height = round(points * 1.4)
    columns = min(columns, n)
    rows = -(-n // columns)
    step_x, step_y = cell_width + gap, cell_height + caption_height + gap
    sheet = Image.new("RGB", (gap + columns * step_x, gap + rows * step_y), (238, 238, 238))
    draw = ImageDraw.Draw(sheet)
    pixels = np.rint(array * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    for i in range(n):
        left, top = gap + (i % columns) * step_x, gap + (i // columns) * step_y
        # Nearest neighbour: the sheet shows the pixels a model sees.
        sheet.paste(Image.fromarray(pixels[i]).resize((cell_width, cell_height), Image.Resampling.NEAREST), (left, top))
        if captions is not None:
            place = (left + cell_width / 2, top + cell_height + caption_height / 2)
            draw.text(place, captions[i], fill=(40, 40, 40), anchor="mm", font=font)
    if path is not None:
        sheet.save(path)
    return sheet
