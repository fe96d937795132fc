"""Arrays of every kind that somebody may pass as rows: sound ones in odd memory, odd values, and what is no rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Values = Callable[[np.random.Generator, int, int], Array]

FLOATS = ("float16", "bfloat16", "float32", "float64")
OTHER_DTYPES = ("int64", "uint16", "bool", "complex64", "object", "longdouble", "U3")


def _few(rng: np.random.Generator, n: int, d: int) -> Array:
    return rng.standard_normal((max(n // 4, 1), d))[rng.integers(0, max(n // 4, 1), n)]


def _with(value: float) -> Values:
    def make(rng: np.random.Generator, n: int, d: int) -> Array:
        x = rng.standard_normal((n, d))
        x[rng.integers(0, n) if n else [], rng.integers(0, d) if d else []] = value
        return x

    return make


def _one_row_times(factor: float) -> Values:
    def make(rng: np.random.Generator, n: int, d: int) -> Array:
        x = rng.standard_normal((n, d))
        x[n // 2 : n // 2 + 1] *= factor
        return x

    return make


# What the values look like; a line each.
VALUES: dict[str, Values] = {
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
    "related": lambda rng, n, d: np.random.default_rng(n).standard_normal((n, 1)) + 0.5 * rng.standard_normal((n, d)),
    "small integers": lambda rng, n, d: rng.integers(-2, 3, (n, d)).astype(float),
    "duplicates": _few,
    "sparse": lambda rng, n, d: rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.1),
    "one-hot": lambda rng, n, d: np.eye(d)[rng.integers(0, max(d, 1), n)] if d else np.ones((n, d)),
    "a line": lambda rng, n, d: rng.standard_normal((n, 1)) * rng.standard_normal((1, d)),
    "far away": lambda rng, n, d: 1e6 + rng.standard_normal((n, d)),
    "a narrow cone": lambda rng, n, d: rng.standard_normal((n, d)) + 300.0 * rng.standard_normal((1, d)),
    "two far clusters": lambda rng, n, d: rng.standard_normal((n, d)) + 1e4 * (np.arange(n) % 2)[:, None],
    "columns of all sizes": lambda rng, n, d: rng.standard_normal((n, d)) * np.geomspace(1e-8, 1e8, d),
    "rows of all sizes": lambda rng, n, d: rng.standard_normal((n, d)) * np.geomspace(1e-6, 1e6, n)[:, None],
    "nearly constant": lambda rng, n, d: 1.0 + 1e-6 * rng.standard_normal((n, d)),
    "constant": lambda rng, n, d: np.full((n, d), 0.1),
    "zeros": lambda rng, n, d: np.zeros((n, d)),
    "a row of zeros": _one_row_times(0.0),
    "a long row": _one_row_times(1e4),
    "a huge row": _one_row_times(1e30),
    "a row beyond float32": _one_row_times(1e100),
    "a tiny row": _one_row_times(1e-200),
    "thousands": lambda rng, n, d: 3e4 * rng.standard_normal((n, d)),
    "1e25": lambda rng, n, d: 1e25 * rng.standard_normal((n, d)),
    "1e60": lambda rng, n, d: 1e60 * rng.standard_normal((n, d)),
    "1e-60": lambda rng, n, d: 1e-60 * rng.standard_normal((n, d)),
    "1e90": lambda rng, n, d: 1e90 * rng.standard_normal((n, d)),
    "1e138": lambda rng, n, d: 1e138 * rng.standard_normal((n, d)),
    "1e300": lambda rng, n, d: 1e300 * rng.standard_normal((n, d)),
    "1e-7": lambda rng, n, d: 1e-7 * rng.standard_normal((n, d)),
    "1e-42": lambda rng, n, d: 1e-42 * rng.standard_normal((n, d)),
    "1e-100": lambda rng, n, d: 1e-100 * rng.standard_normal((n, d)),
    "1e-300": lambda rng, n, d: 1e-300 * rng.standard_normal((n, d)),
    "subnormal": lambda rng, n, d: 5e-324 * rng.integers(1, 1000, (n, d)),
    "infinity": _with(np.inf),
    "minus infinity": _with(-np.inf),
    "NaN": _with(np.nan),
}
PLAIN = tuple(VALUES)[:12]


def _bigger(x: Array) -> Array:
    """The same rows in the middle of something larger, whose other values nobody may see."""
    out = np.full((2 * len(x) + 3, x.shape[1] + 5), 99, x.dtype)
    out[2:-1:2, 3:-2] = x
    return out


def _misaligned(x: Array) -> Array:
    memory = np.zeros(x.nbytes + 1, np.uint8)
    out = memory[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def _torn(x: Array) -> Array:
    """Rows a whole number of bytes, but of no elements, apart."""
    memory = np.zeros((len(x), x.shape[1] * x.itemsize + 1), np.uint8)
    out = np.lib.stride_tricks.as_strided(memory[:, : x.itemsize].view(x.dtype), x.shape, (memory.shape[1], x.itemsize))
    out[...] = x
    return out


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


def _torch(x: Array) -> Any:
    import torch

    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


class _ByDlpack:
    """An array of a library that numpy has never heard of."""

    def __init__(self, x: Array) -> None:
        self.x = x

    def __dlpack__(self, **how: Any) -> Any:
        return self.x.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


# Where the rows lie: rows all the same, so the answer is that for a copy; a line each.
SOUND: dict[str, Callable[[Array], Any]] = {
    "contiguous": lambda x: x,
    "every other row, some columns": lambda x: _bigger(x)[2:-1:2, 3:-2],
    "rows backwards": lambda x: x[::-1].copy()[::-1],
    "read-only": _read_only,
    "torch": _torch,
    "a torch view": lambda x: _torch(_bigger(x))[2:-1:2, 3:-2],
    "a subclass": lambda x: x.view(type("Mine", (np.ndarray,), {})),
    "a memory map's kind": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}
# What may be refused for how it lies, and must be read right otherwise.
ODD: dict[str, Callable[[Array], Any]] = {
    "misaligned": _misaligned,
    "torn": _torn,
    "columns first": np.asfortranarray,
    "columns backwards": lambda x: x[:, ::-1].copy()[:, ::-1],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "one row repeated": lambda x: np.broadcast_to(x[:1], x.shape),
    "overlapping rows": lambda x: np.lib.stride_tricks.as_strided(
        np.resize(x, len(x) + x.shape[1]), x.shape, (x.itemsize, x.itemsize)
    ),
    "the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "DLPack": _ByDlpack,
    "unmasked": lambda x: np.ma.array(x),
    "a matrix": lambda x: x.view(np.matrix),
}
# What are no rows.
NO_ROWS: dict[str, Callable[[Array], Any]] = {
    "one dimension": np.ravel,
    "three dimensions": lambda x: x[:, :, None],
    "no dimension": lambda x: np.asarray(1.0, x.dtype),
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
    "a list": lambda x: x.tolist(),
    "None": lambda x: None,
    "text": lambda x: "rows",
    "a number": lambda x: 3.0,
    "a dict": lambda x: {"layer": x},
    "a masked array": lambda x: np.ma.array(x, mask=np.zeros(x.shape, bool)),
    "records": lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "f8")]),
    "a tensor that needs a gradient": lambda x: _torch(x).requires_grad_(),
    "a sparse tensor": lambda x: _torch(x).to_sparse(),
}


@dataclass(frozen=True)
class StrangeRows:
    """The recipe of an array; what hypothesis prints of a failing case."""

    n: int
    d: int
    values: str = "normal"
    dtype: str = "float32"
    lies: str = "contiguous"
    seed: int = 0

    @property
    def sound(self) -> bool:
        """Rows that must be accepted, whatever their values."""
        return self.lies in SOUND and self.dtype in FLOATS and self.n > 0 and self.d > 0

    @property
    def refused(self) -> bool:
        """What must be refused, whatever its values."""
        return self.lies in NO_ROWS or self.dtype not in FLOATS or self.n == 0 or self.d == 0

    def plain(self) -> Array:
        """The values in ordinary memory."""
        rng = np.random.default_rng([self.seed, self.n, self.d])
        x = VALUES[self.values](rng, self.n, self.d)
        with np.errstate(all="ignore"):  # beyond the range of the dtype is infinity, as intended
            if self.dtype == "bfloat16":
                import ml_dtypes

                return x.astype(ml_dtypes.bfloat16)
            if self.dtype in FLOATS:
                return x.astype(self.dtype)
            return np.nan_to_num(x).clip(-1e3, 1e3).astype(self.dtype)

    def make(self) -> Any:
        x = self.plain()
        return {**SOUND, **ODD, **NO_ROWS}[self.lies](x)
