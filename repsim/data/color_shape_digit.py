"""ColorShapeDigit: a pale handwritten digit inside a hand-drawn outline, in one of ten colours, drawn from a seed.

Every image is a function of (seed, source, index) alone. Its random numbers are hashes of (seed, source, index, field);
outlines are signed distance maps, digits are enlarged scans, and both are placed by one affine `grid_sample`.

The pixels are the same bits on every machine, in any order and batch, with any number of threads: map entries are
whole numbers of 8 bits and sampling coordinates multiples of 1/256 map pixel, so that each bilinear sum is a whole
multiple of 2^-16 below 2^8, exact in float32 however it is vectorised; all that follows is single, correctly rounded
additions and multiplications. Rotations use the half-angle tangent, for sine and cosine differ between libraries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from repsim.data.images import LabelledImages, digit_scans, enlarge, index_array

if TYPE_CHECKING:
    import torch

ATTRIBUTES = ("color", "shape", "digit")
CLASSES = (10, 8, 10)
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black")
SHAPES = ("circle", "triangle", "square", "diamond", "pentagon", "star", "heart", "cross")
SOURCES = ("train", "test")
TEST_ID_OFFSET = 1 << 40

# fmt: off
_RGB = np.array([
    (218, 30, 40), (255, 130, 10), (232, 196, 0), (20, 140, 50), (0, 188, 208),
    (30, 70, 215), (125, 40, 190), (255, 105, 185), (122, 72, 34), (28, 28, 30),
], dtype=np.float64)
# One hash per image and field. The position is part of the hash: a new field is added at the end.
_FIELDS = (
    "scan", "outline", "other_outline", "blend", "mirror", "turn", "radius", "x", "y", "aspect", "stroke",
    "digit_turn", "digit_height", "digit_x", "digit_y", "digit_aspect", "digit_shear", "pale", "red", "green", "blue",
)
# fmt: on
# The digit's strength: paler where the colour is dark, so that every colour's digit stands out about as much.
_PALE = np.clip(0.30 / (1 - _RGB @ np.array([0.30, 0.59, 0.11]) / 255), 0.40, 0.72)
# Per shape, in units of the outline's radius: half its larger extent, and the digit's place (centre x, y, height).
_PLACES = np.array(
    [
        (0.96, 0.0, 0.0, 1.24),  # circle
        (0.97, 0.0, 0.33, 0.94),  # triangle
        (0.88, 0.0, 0.0, 1.24),  # square
        (1.04, 0.0, 0.0, 1.06),  # diamond
        (0.98, 0.0, 0.10, 1.16),  # pentagon
        (1.02, 0.0, 0.11, 0.96),  # star
        (0.97, 0.0, 0.04, 0.90),  # heart
        (0.96, 0.0, 0.0, 1.08),  # cross
    ]
)
_COMBINATIONS = CLASSES[0] * CLASSES[1] * CLASSES[2]
_TEST_SHARE = 0.2  # of the source digits of every class

_DRAWINGS = 16  # drawn outlines of each shape; an image blends two of them
_TILE = 32  # side of an outline's distance map
_TILE_RADIUS = 12.0  # map pixels in one outline radius
_DISTANCE_UNIT = 32  # map entries per map pixel of distance: +-127 reach 4 map pixels, more than any stroke
_BATCH = 512  # images drawn at a time: bounds the memory and keeps the planes in cache

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on uint64: a bijection whose outputs look random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(*numbers: int | np.ndarray) -> np.ndarray:
    """uint64 hash of a tuple of non-negative whole numbers, broadcast against each other."""
    state = np.zeros(1, dtype=np.uint64)
    for number in numbers:
        state = _mix((state + np.uint64(1)) * _GOLDEN + np.asarray(number).astype(np.uint64))
    return state


def _uniform(bits: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from the upper 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn from: outlines and scans, built once a process


def _regular(corners: int, inner: float | None = None) -> np.ndarray:
    """Corners of a regular polygon, one on top; with `inner`, of a star."""
    radii = np.ones(corners) if inner is None else np.tile([1, inner], corners)
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _corners(shape: str) -> np.ndarray:
    """float64 [corners, 2]: the ideal outline in any size, x to the right, y down."""
    t = 2 * np.pi * np.arange(48) / 48
    heart = (16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)))
    arm = [(-0.43, -1), (0.43, -1), (0.43, -0.43)]  # a quarter of the cross, turned four times
    return {
        "circle": _regular(48),
        "triangle": np.array([(0, -0.92), (1, 0.92), (-1, 0.92)]),
        "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
        "diamond": np.array([(0, -1), (0.83, 0), (0, 1), (-0.83, 0)]),
        "pentagon": _regular(5),
        "star": _regular(5, 0.52),
        "heart": np.stack(heart, axis=1) / 16,
        "cross": np.array(arm + [(-y, x) for x, y in arm] + [(-x, -y) for x, y in arm] + [(y, -x) for x, y in arm]),
    }[shape]


def _draw(shape: int, drawing: int) -> tuple[np.ndarray, np.ndarray]:
    """One hand-drawn outline: closed polyline float64 [96, 2] and the pen's pressure on it [96], around 1."""
    random = _uniform(_hash(1, shape, drawing, np.arange(160)))
    corners = _corners(SHAPES[shape])
    if len(corners) < 48:  # corners miss their place a little
        corners = corners + 0.09 * (random[: 2 * len(corners)].reshape(-1, 2) - 0.5)
    closed = np.concatenate([corners, corners[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    even = np.linspace(0, along[-1], 96, endpoint=False)
    points = np.stack([np.interp(even, along, closed[:, axis]) for axis in (0, 1)], axis=1)
    points = (np.roll(points, 1, 0) + 2 * points + np.roll(points, -1, 0)) / 4  # no pen turns on the spot

    t = 2 * np.pi * np.arange(96) / 96
    waves = 2 * np.pi * random[100:160].reshape(20, 3)
    wobble = np.zeros((96, 2))
    for k in range(2, 9):  # a trembling hand: slow waves are larger
        for axis in (0, 1):
            wobble[:, axis] += (0.6 + 0.8 * random[60 + 2 * k + axis]) / k * np.cos(k * t + waves[k, axis])
    points += 0.036 * wobble
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) * (2 * _PLACES[shape, 0] / (high - low).max())
    pressure = sum(size * np.cos(k * t + waves[k, 2]) for k, size in ((1, 0.16), (2, 0.10), (5, 0.08)))
    return points, 1 + pressure


def _distance_map(points: np.ndarray, pressure: np.ndarray) -> np.ndarray:
    """float64 [_TILE, _TILE]: distance to the outline in map pixels over the pressure there, negative inside."""
    axis = (np.arange(_TILE) - (_TILE - 1) / 2) / _TILE_RADIUS
    pixel = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    start, end = points, np.roll(points, -1, axis=0)
    edge = end - start
    offset = pixel - start
    t = np.clip((offset * edge).sum(-1) / (edge * edge).sum(-1), 0, 1)
    gap = offset - t[..., None] * edge
    squared = (gap * gap).sum(-1)
    nearest = squared.argmin(1)
    rows = np.arange(len(nearest))
    distance = np.sqrt(squared[rows, nearest]) * _TILE_RADIUS
    above = (start[:, 1] > pixel[..., 1]) != (end[:, 1] > pixel[..., 1])
    with np.errstate(divide="ignore", invalid="ignore"):  # level edges are never `above`
        crossing = start[:, 0] + (pixel[..., 1] - start[:, 1]) / edge[:, 1] * edge[:, 0]
    inside = (above & (pixel[..., 0] < crossing)).sum(1) % 2 == 1
    return (np.where(inside, -distance, distance) / pressure[nearest]).reshape(_TILE, _TILE)


@lru_cache(maxsize=1)
def _outlines() -> torch.Tensor:
    """float32 [8 * _DRAWINGS, _TILE, _TILE] of whole numbers in [-127, 127]."""
    import torch

    maps = [_distance_map(*_draw(shape, drawing)) for shape in range(len(SHAPES)) for drawing in range(_DRAWINGS)]
    return torch.from_numpy(np.rint(np.clip(np.stack(maps) * _DISTANCE_UNIT, -127, 127)).astype(np.float32))


def _scan_tile(size: int) -> int:
    """Side of a digit's map: one map pixel is then .7 to 1.6 image pixels, so that bilinear sampling never aliases."""
    return 16 if size <= 40 else 32 if size <= 80 else 64


@lru_cache(maxsize=8)
def _scans(source: str, tile: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """The source's digits: float32 [m, tile, tile] of whole numbers 0..255 by class, first row and count per class."""
    import torch

    chosen = _source_rows(source)
    digits = digit_scans()[1][chosen]
    chosen = chosen[np.argsort(digits, kind="stable")]
    # A rim of one empty pixel, so that sampling outside the map meets paper; then more contrast: scans are soft.
    padded = np.pad(digit_scans()[0][chosen], ((0, 0), (1, 1), (1, 1)))
    ink = np.clip((enlarge(padded, tile) / 16 - 0.12) / 0.68, 0, 1)
    counts = np.bincount(digits, minlength=CLASSES[2])
    maps = torch.from_numpy(np.rint(ink * 255).astype(np.float32))
    return maps, np.cumsum(counts) - counts, counts


@lru_cache(maxsize=2)
def _source_rows(source: str) -> np.ndarray:
    """Rows of `load_digits` that a source draws, sorted: in each class the fifth with the smallest hash is "test"."""
    digits = digit_scans()[1]
    test = np.zeros(len(digits), dtype=bool)
    for digit in range(CLASSES[2]):
        rows = np.flatnonzero(digits == digit)
        order = np.argsort(_hash(2, rows), kind="stable")
        test[rows[order[: round(_TEST_SHARE * len(rows))]]] = True
    return np.flatnonzero(test if source == "test" else ~test)


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


def _rotation(turn: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of an angle whose half has a tangent uniform in [-limit, limit)."""
    t = limit * (2 * turn - 1)
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def _sample(maps: torch.Tensor, matrix: np.ndarray, size: int, padding: str) -> torch.Tensor:
    """float32 [n, size, size]: each map [tile, tile] seen through `matrix` [n, 2, 3].

    The matrix takes (u, v, 1), u and v the odd numbers 1 - size .. size - 1 of pixel centres, to map pixels from the
    map's centre. Its entries are rounded to 1/256: see the head of this file.
    """
    import torch

    tile = maps.shape[-1]
    exact = torch.from_numpy((np.rint(matrix * 256) * (2 / (256 * tile))).astype(np.float32))
    odd = torch.arange(1 - size, size, 2, dtype=torch.float32, device="cpu")
    grid = torch.empty((len(maps), size, size, 2), dtype=torch.float32, device="cpu")
    for row in (0, 1):
        across = exact[:, row, 0, None] * odd + exact[:, row, 2, None]
        down = exact[:, row, 1, None] * odd
        torch.add(across[:, None, :], down[:, :, None], out=grid[..., row])
    return torch.nn.functional.grid_sample(
        maps[:, None], grid, mode="bilinear", padding_mode=padding, align_corners=False
    )[:, 0]


def _placing(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, centre_x: np.ndarray, centre_y: np.ndarray
) -> np.ndarray:
    """float64 [n, 2, 3]: (a b; c d) applied to pixel centres minus a centre; see `_sample` for the units."""
    matrix = np.empty((len(a), 2, 3))
    for row, (x, y) in enumerate(((a, b), (c, d))):
        matrix[:, row, 0], matrix[:, row, 1] = x / 2, y / 2  # neighbouring odd numbers are one pixel apart
        matrix[:, row, 2] = -(x * centre_x + y * centre_y)
    return matrix


def _column(values: np.ndarray) -> torch.Tensor:
    """float32 [n, 1, 1]."""
    import torch

    return torch.from_numpy(values.astype(np.float32))[:, None, None]


@dataclass(frozen=True)
class ColorShapeDigit:
    """A data set of drawn images with three independent attributes, made on the fly: nothing is stored or downloaded.

    Example:
        data = ColorShapeDigit(seed=0)
        data.images(range(64))                          # float32 [64, 3, 28, 28] in [0, 1]
        data.factors(range(64))                         # int64 [64, 3]: color, shape, digit
        data.labelled(range(64), ("shape", "digit"))    # LabelledImages, labels [64, 2]
        data[1000:1064]                                 # LabelledImages with all three attributes

    On white, one of 10 colours; a pale handwritten digit (scikit-learn's `load_digits`, each turned, scaled, shifted,
    sheared) inside the drawn outline of one of 8 shapes in the full colour. Every 800 consecutive images, counted from
    0, hold each combination once. The image at (seed, source, size, index) has the same bits everywhere.

    Args:
        seed: a non-negative integer below 2^63: another seed is another data set.
        size: side in pixels, 20 to 128.
        length: number of images, at most 2^40.
        source: "train" or "test": which of the real digits are drawn (80 % and 20 % of each class). The two never
            share a source digit, whatever their seeds.

    Raises:
        TypeError, ValueError: an argument outside what is stated here; an index that is negative or not below length.
    """

    seed: int = 0
    size: int = 28
    length: int = 800_000
    source: str = "train"

    def __post_init__(self) -> None:
        for name, low, high in (("seed", 0, 2**63 - 1), ("size", 20, 128), ("length", 1, TEST_ID_OFFSET)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
                raise TypeError(f"[ColorShapeDigit] expected {name} as an integer, got {value!r}")
            if not low <= value <= high:
                raise ValueError(f"[ColorShapeDigit] expected {name} in [{low}, {high}], got {value}")
        if self.source not in SOURCES:
            raise ValueError(f"[ColorShapeDigit] expected source as one of {SOURCES}, got {self.source!r}")

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[LabelledImages]:
        return (self[index] for index in range(self.length))

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> LabelledImages:
        if isinstance(index, slice):
            return self.labelled(range(*index.indices(self.length)))
        return self.labelled(np.atleast_1d(np.asarray(index)))

    def factors(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The colour, shape and digit of images, without drawing them.

        Example:
            ColorShapeDigit().factors([0, 1, 2])    # int64 [3, 3]

        Args:
            indices: integers [m] in [0, length).

        Returns:
            int64 [m, 3], columns as in ATTRIBUTES, values into COLORS, SHAPES and the digits.
        """
        return self._factors(index_array(indices, self.length, "ColorShapeDigit.factors", "indices"))

    def _factors(self, rows: np.ndarray) -> np.ndarray:
        # Each block of 800 walks the seed's permutation with its own start and its own stride, coprime to 800.
        order = np.argsort(_hash(3, self.seed, np.arange(_COMBINATIONS)), kind="stable")
        strides = np.flatnonzero(np.gcd(np.arange(_COMBINATIONS), _COMBINATIONS) == 1)
        block, place = np.divmod(rows, _COMBINATIONS)
        bits = _hash(4, self.seed, block)
        stride = strides[((bits >> np.uint64(32)) % np.uint64(len(strides))).astype(np.int64)]
        start = ((bits & np.uint64(0xFFFFFFFF)) % np.uint64(_COMBINATIONS)).astype(np.int64)
        combination = order[(start + stride * place) % _COMBINATIONS]
        return np.stack(np.unravel_index(combination, CLASSES), axis=1).astype(np.int64)

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images, drawn now on as many threads as torch is set to use.

        Example:
            ColorShapeDigit().images([0, 5, 0])     # float32 [3, 3, 28, 28]

        Args:
            indices: integers [m] in [0, length), in any order, repeats allowed.

        Returns:
            float32 [m, 3, size, size], RGB in [0, 1], every value a multiple of 1/255.
        """
        rows = index_array(indices, self.length, "ColorShapeDigit.images", "indices")
        images = np.empty((len(rows), 3, self.size, self.size), dtype=np.float32)
        for start in range(0, len(rows), _BATCH):
            images[start : start + _BATCH] = self._drawn(rows[start : start + _BATCH]).numpy()
        images /= np.float32(255)
        return images

    def _drawn(self, rows: np.ndarray) -> torch.Tensor:
        """float32 [m, 3, size, size] of whole numbers 0..255."""
        import torch

        size, half = self.size, self.size / 2
        color, shape, digit = self._factors(rows).T
        key = _hash(5, self.seed, SOURCES.index(self.source), rows)
        random = dict(zip(_FIELDS, _uniform(_hash(key, np.arange(len(_FIELDS))[:, None])), strict=True))

        def jitter(name: str, spread: float) -> np.ndarray:
            return spread * (2 * random[name] - 1)

        # The outline: two drawings of the shape blended, mirrored or not, turned, sized, shifted, stretched.
        radius = half * 0.83 * (1 + jitter("radius", 0.07))
        centre_x, centre_y = half * jitter("x", 0.05), half * jitter("y", 0.05)
        cosine, sine = _rotation(random["turn"], 0.11)
        stretch = 1 + jitter("aspect", 0.06)
        along_x = np.where(random["mirror"] < 0.5, -1.0, 1.0) * stretch * _TILE_RADIUS / radius
        along_y = _TILE_RADIUS / (stretch * radius)
        matrix = _placing(along_x * cosine, along_x * sine, -along_y * sine, along_y * cosine, centre_x, centre_y)
        first = torch.from_numpy(shape * _DRAWINGS + (random["outline"] * _DRAWINGS).astype(np.int64))
        second = torch.from_numpy(shape * _DRAWINGS + (random["other_outline"] * _DRAWINGS).astype(np.int64))
        blend = torch.from_numpy(random["blend"].astype(np.float32))[:, None, None]
        maps = _outlines()[first]
        maps += (_outlines()[second] - maps).mul_(blend).round_()
        distance = _sample(maps, matrix, size, "border").abs_()
        pen = half * (0.074 + jitter("stroke", 0.016))  # half the stroke's width in image pixels
        distance *= _column(-radius / (_TILE_RADIUS * _DISTANCE_UNIT))
        cover = distance.add_(_column(pen + 0.5)).clamp_(0, 1)

        # The digit: one real scan, in the outline's place for it, with its own turn, size, shift, stretch and shear.
        scans, first_row, count = _scans(self.source, _scan_tile(size))
        place_x, place_y, height = _PLACES[shape, 1:].T
        pixels = scans.shape[-1] * 0.8 / (radius * height * (1 + jitter("digit_height", 0.08)))  # a scan is 8 of 10
        cosine, sine = _rotation(random["digit_turn"], 0.10)
        stretch = 1 + jitter("digit_aspect", 0.08)
        shear = jitter("digit_shear", 0.15)
        along_x, along_y = pixels * stretch, pixels / stretch
        matrix = _placing(
            along_x * (cosine - shear * sine),
            along_x * (sine + shear * cosine),
            -along_y * sine,
            along_y * cosine,
            centre_x + radius * (place_x + jitter("digit_x", 0.06)),
            centre_y + radius * (place_y + jitter("digit_y", 0.06)),
        )
        scan = torch.from_numpy(first_row[digit] + (random["scan"] * count[digit]).astype(np.int64))
        ink = _sample(scans[scan], matrix, size, "zeros")
        ink *= _column((_PALE[color] + jitter("pale", 0.05)) / 255)

        shades = np.stack([jitter(name, 10) for name in ("red", "green", "blue")], axis=1)
        tint = np.rint(255 - np.clip(_RGB[color] + shades, 0, 255)).astype(np.float32)
        cover = torch.maximum(cover, ink)
        return (torch.from_numpy(tint)[:, :, None, None] * cover[:, None]).round_().neg_().add_(255)

    def labelled(self, indices: Sequence[int] | np.ndarray, attributes: Sequence[str] = ATTRIBUTES) -> LabelledImages:
        """Images with the chosen attributes as labels.

        Example:
            ColorShapeDigit().labelled(range(100), ("color",))      # labels [100, 1]

        Args:
            indices: distinct integers [m] in [0, length).
            attributes: one or more of ATTRIBUTES, each once; the heads are in this order.

        Returns:
            LabelledImages. The ids are the indices, plus TEST_ID_OFFSET (2^40) where the source is "test": the ids of
            both sources never meet. They do not tell seeds or sizes apart.

        Raises:
            TypeError, ValueError: indices out of range or repeated; an attribute that is unknown, repeated or missing.
        """
        if isinstance(attributes, str):
            raise TypeError(f"[ColorShapeDigit.labelled] expected attributes as a tuple of names, got {attributes!r}")
        names = tuple(attributes)
        for name in names:
            if name not in ATTRIBUTES:
                raise ValueError(f"[ColorShapeDigit.labelled] expected attributes among {ATTRIBUTES}, got {name!r}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"[ColorShapeDigit.labelled] expected attributes each once and at least one, got {names}")
        rows = index_array(indices, self.length, "ColorShapeDigit.labelled", "indices")
        columns = [ATTRIBUTES.index(name) for name in names]
        ids = rows + (TEST_ID_OFFSET if self.source == "test" else 0)
        classes = tuple(CLASSES[column] for column in columns)
        return LabelledImages(self.images(rows), self._factors(rows)[:, columns], classes, names, ids)

    def captions(self, indices: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """What each image shows, in words.

        Example:
            ColorShapeDigit().captions([0])     # one text such as "red star 3"

        Args:
            indices: integers [m] in [0, len(self)).

        Returns:
            One text for each.
        """
        return tuple(f"{COLORS[color]} {SHAPES[shape]} {digit}" for color, shape, digit in self.factors(indices))

    def pixel_hash(self, indices: Sequence[int] | np.ndarray) -> str:
        """SHA-256 of the images' 8-bit pixels in the given order: equal where the drawing is equal.

        Example:
            ColorShapeDigit().pixel_hash(range(100))

        Args:
            indices: integers [m] in [0, len(self)).

        Returns:
            64 hexadecimal digits.
        """
        rows = index_array(indices, self.length, "ColorShapeDigit.pixel_hash", "indices")
        digest = hashlib.sha256()
        for start in range(0, len(rows), _BATCH):
            digest.update(self._drawn(rows[start : start + _BATCH]).numpy().astype(np.uint8).tobytes())
        return digest.hexdigest()
