"""Rows that lie with the host, worked on by a GPU: one block of them is copied there while another is worked on.

A block is read into pinned memory, copied by a stream of its own, and waited for by the stream that reads it. Every
matrix has two places for blocks; one is filled again when what has read it, and no more than that, has come to its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..arguments import thread_count
from ..arrays import RESIDENT_ON_DEVICE, DeviceRows, Rows

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import torch

PLACES = 2  # of every matrix, on both sides
MOST_READERS = 8  # threads that read a block: one alone is slower than the bus
ALONE = 2**20  # bytes that one thread reads as fast as several


class Copies(Protocol):
    """What is asked of a GPU: memory for both ends of a copy, a stream that copies, and events that say how far it is.

    The tests have one that is no GPU, and that finds places which are overwritten too early.
    """

    device: torch.device

    def pinned(self, size: int) -> torch.Tensor:
        """Memory of the host [size] uint8 that a GPU can copy from by itself."""

    def there(self, size: int) -> torch.Tensor:
        """Memory of the GPU [size] uint8."""

    def copy(self, source: torch.Tensor, to: torch.Tensor, after: Any) -> Any:
        """Queues a copy that begins after an event; returns the event of its end."""

    def so_far(self) -> Any:
        """The event that what the current stream was given until now has ended."""

    def wait(self, event: Any) -> None:
        """What the current stream is given from now on begins after the event."""

    def settle(self, event: Any) -> None:
        """Returns after the event."""

    def unpin(self) -> None:
        """Gives the system back what was pinned and is not used any more."""


class CopyStream:
    """A stream of a GPU, of torch's, that copies from pinned memory."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device, self._stream = device, torch.cuda.Stream(device)

    def pinned(self, size: int) -> torch.Tensor:
        import torch

        try:
            return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
        except RuntimeError as error:
            raise MemoryError(
                f"expected {size / 2**20:.0f} MiB of memory that the system pins for copies to {self.device}, "
                f"got {error}; give a smaller memory, or block_rows"
            ) from error

    def there(self, size: int) -> torch.Tensor:
        import torch

        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def copy(self, source: torch.Tensor, to: torch.Tensor, after: Any) -> Any:
        import torch

        with torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            to.copy_(source, non_blocking=True)
            to.record_stream(self._stream)  # should it be given up with the copy under way, after an interrupt
            return self._stream.record_event()

    def so_far(self) -> Any:
        import torch

        return torch.cuda.current_stream(self.device).record_event()

    def wait(self, event: Any) -> None:
        import torch

        torch.cuda.current_stream(self.device).wait_event(event)

    def settle(self, event: Any) -> None:
        event.synchronize()

    def unpin(self) -> None:
        import torch

        self._stream.synchronize()  # what was copied last is not used any more either
        empty_cache = getattr(torch._C, "_host_emptyCache", None)  # of CUDA builds; there is no public name for it
        if empty_cache is not None:
            empty_cache()


@dataclass(eq=False)
class _Place:
    """Memory for one block at both ends, and what becomes of it."""

    pinned: torch.Tensor
    there: torch.Tensor
    free: Any  # the event that what has read it has ended; of new memory: that it is nobody else's
    copied: Any = None
    rows: tuple[int, int] | None = None
    lent: int = 0
    unread: bool = False


@dataclass(eq=False)
class Uploads:
    """The values of rows that lie with the host: ``[start:stop]`` of them on a GPU, until they are given back.

    ``uploaded`` counts rows, for tests and for whoever plans.
    """

    rows: Rows
    copies: Copies
    uploaded: int = 0
    _places: list[_Place] = field(default_factory=list)  # the one that was filled longest ago first
    _readers: ThreadPoolExecutor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.values.shape

    @property
    def itemsize(self) -> int:
        return self.rows.values.itemsize

    @property
    def device(self) -> torch.device:
        return self.copies.device

    def __getitem__(self, which: slice) -> torch.Tensor:
        """Rows start to stop, lent until :meth:`give_back`; copied unless they are still there."""
        start, stop, _ = which.indices(len(self.rows))
        place = self._holding(start, stop)
        if place is None:
            place = self._place(self._size(stop - start))
            self._fill(place, start, stop)
        return self._lend(place, stop - start)

    def begin(self, start: int, stop: int) -> None:
        """Copy rows start to stop beforehand, if there is a place for them that nobody needs."""
        stop = min(stop, len(self.rows))
        room = len(self._places) < PLACES or any(map(_is_spare, self._places))
        if start < stop and room and self._holding(start, stop) is None:
            self._fill(self._place(self._size(stop - start)), start, stop)

    def give_back(self, start: int, stop: int) -> None:
        """Rows start to stop are read by nothing that comes later."""
        place = self._holding(start, min(stop, len(self.rows)))
        if place is not None and place.lent:
            self._end(place)

    @contextmanager
    def picked(self, which: np.ndarray) -> Iterator[torch.Tensor]:
        """The chosen rows, in their order, while they are read. They are read in the host's memory one by one."""
        place = self._place(self._size(len(which)))
        to = self._memory(place, len(which))
        values, parts = self.rows.values, self._parts(0, len(which))
        if values.flags.c_contiguous and values.flags.aligned:  # else numpy would copy the whole of it
            self._together(lambda part: np.take(values, which[part], axis=0, out=to[part], mode="clip"), parts)
        else:
            self._together(lambda part: np.copyto(to[part], values[which[part]]), parts)
        self.rows.release(int(which.min()), int(which.max()) + 1)
        self._copy(place, len(which), None)
        yield self._lend(place, len(which))
        self._end(place)

    def close(self) -> None:
        """Give up all memory, after the copies that are under way."""
        places, self._places = self._places, []
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.shutdown(cancel_futures=True)
        for place in places:
            if place.copied is not None:
                self.copies.settle(place.copied)

    def _size(self, rows: int) -> int:
        return rows * self.rows.depth * self.itemsize

    def _holding(self, start: int, stop: int) -> _Place | None:
        return next((place for place in self._places if place.rows == (start, stop)), None)

    def _place(self, size: int) -> _Place:
        """One that is not lent, and last in line, with room for so many bytes."""
        place = None
        if len(self._places) == PLACES:
            not_lent = (one for one in self._places if not one.lent)
            place = min(not_lent, key=lambda one: one.unread, default=None)
            if place is None:
                raise RuntimeError(f"expected one of {PLACES} blocks of {self.rows.name} to be given back first")
            self._places.remove(place)
            self.copies.settle(place.copied)  # the pinned memory can be written
            place.rows = None
            if len(place.there) < size:
                place = None  # and its memory is free before there is other
                self.copies.unpin()
        if place is None:
            place = _Place(self.copies.pinned(size), self.copies.there(size), self.copies.so_far())
        self._places.append(place)
        return place

    def _fill(self, place: _Place, start: int, stop: int) -> None:
        to, values = self._memory(place, stop - start), self.rows.values

        def read(part: slice) -> None:
            to[part.start - start : part.stop - start] = values[part]

        for first, last in self.rows.sweep(start, stop):
            self._together(read, self._parts(first, last))
        self._copy(place, stop - start, (start, stop))

    def _memory(self, place: _Place, count: int) -> np.ndarray:
        """The pinned memory as so many rows."""
        flat = place.pinned[: self._size(count)].numpy().view(self.rows.values.dtype)
        return flat.reshape(count, self.rows.depth)

    def _parts(self, start: int, stop: int) -> list[slice]:
        """The shares of the threads that read."""
        readers = 1 if self._size(stop - start) <= ALONE else _reader_count()
        cuts = np.linspace(start, stop, readers + 1).astype(int)
        return [slice(a, b) for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]

    def _together(self, read: Any, parts: list[slice]) -> None:
        if len(parts) == 1:
            read(parts[0])
            return
        if self._readers is None:
            from concurrent.futures import ThreadPoolExecutor

            self._readers = ThreadPoolExecutor(_reader_count(), thread_name_prefix="repsim-reader")
        list(self._readers.map(read, parts))

    def _copy(self, place: _Place, count: int, rows: tuple[int, int] | None) -> None:
        size = self._size(count)
        place.copied = self.copies.copy(place.pinned[:size], place.there[:size], place.free)
        place.rows, place.unread = rows, True
        self.uploaded += count

    def _lend(self, place: _Place, count: int) -> torch.Tensor:
        import torch

        self.copies.wait(place.copied)
        place.lent += 1
        place.unread = False
        flat = place.there[: self._size(count)].view(getattr(torch, self.rows.dtype))
        return flat.view(count, self.rows.depth)

    def _end(self, place: _Place) -> None:
        place.lent -= 1
        place.free = self.copies.so_far()


def _is_spare(place: _Place) -> bool:
    return not (place.lent or place.unread)


def _reader_count() -> int:
    return min(MOST_READERS, thread_count(None, function="uploads"))


@dataclass(frozen=True)
class StreamedRows(DeviceRows):
    """Rows with the host that a GPU works on. A range of ``values``, or a part, is there until it is released."""

    values: Uploads

    @property
    def host(self) -> Rows:
        return self.values.rows

    def part(self, start: int, stop: int) -> Rows:
        return DeviceRows(self.values[start:stop], self.dtype, self.name)

    def at(self, positions: np.ndarray | slice) -> Rows:
        which = np.arange(len(self))[positions]
        with self.values.picked(which) as picked:
            return DeviceRows(picked.clone(), self.dtype, self.name)

    def alone(self, positions: np.ndarray) -> Rows:
        return replace(self, values=Uploads(self.host.at(positions), self.values.copies))

    def beside(self, values: np.ndarray) -> Rows:
        return replace(self, values=Uploads(self.host.beside(values), self.values.copies), dtype="float64")

    def prefetch(self, start: int, stop: int) -> None:
        self.values.begin(start, stop)

    def release(self, start: int, stop: int) -> None:
        self.values.give_back(start, stop)
        self.host.release(start, stop)

    def content(self) -> Iterator[np.ndarray]:
        return self.host.content()

    def wide(self, rows: slice | np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        return self.host.wide(rows, columns)

    def wide_there(self, rows: slice | np.ndarray, columns: slice = slice(None)) -> Any:
        import torch

        if columns != slice(None):  # what the host reads of them is brought there
            return torch.as_tensor(self.wide(rows, columns), device=self.values.device)
        if not isinstance(rows, slice):
            with self.values.picked(rows) as picked:
                return picked.to(torch.float64, copy=True)
        start, stop, _ = rows.indices(len(self))
        found = self.values[start:stop].to(torch.float64, copy=True)
        self.values.give_back(start, stop)
        return found

    def returned(self, tensor: Any) -> Any:
        return tensor.cpu().numpy()


def rows_for(rows: Rows, device: Any, *, function: str) -> Rows:
    """Rows for a device: as :class:`StreamedRows` where they lie with the host and it is a GPU, otherwise as they are.

    ``device``: None, where they lie; "cpu"; or a GPU that torch knows, such as "cuda" or "cuda:1".

    Raises
    ------
    ValueError: no such device, or one that the rows do not lie on and cannot be brought to.
    """
    if device is None or isinstance(rows, StreamedRows):
        return rows
    if str(device) == "cpu":
        if isinstance(rows, DeviceRows):
            raise ValueError(f"[{function}] expected {rows.name} on the CPU for device 'cpu', got {rows.device}")
        return rows
    copies = copies_to(device, function)
    if not isinstance(rows, DeviceRows):
        return StreamedRows(Uploads(rows, copies), rows.dtype, rows.name)
    if rows.device != str(copies.device):
        raise ValueError(f"[{function}] expected {rows.name} on {copies.device} or the CPU, got {rows.device}")
    return rows


def copies_to(device: Any, function: str) -> Copies:
    """To the GPU of that name.

    Raises
    ------
    ValueError: there is none, or this build has no operations for it.
    """
    import torch

    from .device import has_gpu_operations

    try:
        where = torch.device(device)
    except (RuntimeError, TypeError):
        where = torch.device("meta")
    if where.type != "cuda":
        raise ValueError(f"[{function}] expected device 'cpu' or a GPU such as 'cuda', got {device!r}")
    if not has_gpu_operations():
        raise ValueError(f"[{function}] expected device 'cpu' in a build without GPU operations, got {device!r}")
    count = torch.cuda.device_count()
    if (where.index or 0) >= count:
        raise ValueError(f"[{function}] expected device to be one of the {count} GPUs that torch sees, got {device!r}")
    return CopyStream(torch.device("cuda", torch.cuda.current_device() if where.index is None else where.index))


def _uploads(matrices: Sequence[Rows]) -> list[Uploads]:
    found = [rows.values for rows in matrices if isinstance(rows, StreamedRows)]
    return [one for at, one in enumerate(found) if one not in found[:at]]


def place_bytes(matrices: Sequence[Rows]) -> tuple[int, int]:
    """What the places for blocks take at most on a GPU: bytes in any case, and bytes for every row of a block."""
    own = _uploads(matrices)
    least = sum(PLACES * min(RESIDENT_ON_DEVICE, one._size(len(one.rows))) for one in own)
    return least, sum(PLACES * one._size(1) for one in own)


def pinned_bytes(matrices: Sequence[Rows], rows: int) -> int:
    """What the host pins for blocks of so many rows: torch rounds what it pins up to a power of two."""
    return sum(
        PLACES * _power_of_two_from(min(max(RESIDENT_ON_DEVICE, one._size(rows)), one._size(len(one.rows))))
        for one in _uploads(matrices)
    )


def _power_of_two_from(size: int) -> int:
    return 1 << (size - 1).bit_length()


@contextmanager
def streaming(matrices: Sequence[Rows]) -> Iterator[None]:
    """While rows may be on their way; afterwards, whatever has happened, nothing is held here and nothing is under way.

    What torch has pinned it would keep for later calls; where it can be asked to, it gives that back.
    """
    with ExitStack() as ending:
        for uploads in _uploads(matrices):
            ending.callback(uploads.copies.unpin)
            ending.callback(uploads.close)  # before
        yield
