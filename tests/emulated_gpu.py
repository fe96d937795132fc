"""repsim._cuda with kernels that are loops on the host: what runs on a GPU, on a machine without one."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from repsim.arrays import DeviceRows, as_rows
from repsim.reductions import device, device_grid
from repsim.reductions.device_streams import StreamedRows, Uploads

SOURCE = Path(__file__).parents[1] / "csrc" / "cuda" / "emulated"


@functools.cache
def module() -> Any:
    """Built by CMake once in a process; or that of REPSIM_EMULATED_CUDA, a folder where it was built before."""
    folder = os.environ.get("REPSIM_EMULATED_CUDA")
    if folder is None:
        cmake, ninja = pytest.importorskip("cmake"), pytest.importorskip("ninja")
        nanobind = pytest.importorskip("nanobind")
        folder = tempfile.mkdtemp(prefix="repsim-emulated-")
        tool = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
        _run(
            tool, "-S", str(SOURCE), "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja.BIN_DIR}/ninja",
            f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind.cmake_dir()}",
        )  # fmt: skip
        _run(tool, "--build", folder, "--parallel", "2")
    built = Path(folder) / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location("repsim._cuda", built)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def install(monkeypatch: pytest.MonkeyPatch, *, tile_rows: int = 192) -> Any:
    """Make it repsim._cuda, with tiles of so many rows at the most, until the test is over."""
    monkeypatch.setitem(sys.modules, "repsim._cuda", module())
    monkeypatch.setattr(device, "gpu_module", module)
    monkeypatch.setattr(device_grid, "TILE_ROWS", tile_rows)
    monkeypatch.setattr("repsim.reductions.device_neighbours.gpu_module", module)
    to = device._to

    def to_the_like(like: Any, values: Any) -> torch.Tensor:
        return to(like, values).as_subclass(_NotOnHost if isinstance(like, _NotOnHost) else torch.Tensor)

    monkeypatch.setattr(device, "_to", to_the_like)
    return module()


def on_gpu(x: Any, name: str = "x") -> DeviceRows:
    """An array as rows that the GPU operations work on, here in the memory of the CPU."""
    tensor = x if isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x))
    return DeviceRows(tensor, str(tensor.dtype).removeprefix("torch."), name)


class _NotOnHost(torch.Tensor):
    """A tensor that, like one on a GPU, goes together with no array or tensor of the host, but for positions.

    ``cpu()`` gives a plain one, which numpy reads.
    """

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.Tensor.cpu, torch.as_tensor):
            with torch._C.DisableTorchFunctionSubclass():
                found = function(*args, **(kwargs or {}))
                return found.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else found
        picks = function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
        if function is torch.Tensor.numpy or not (picks or all(map(_goes_there, args))):
            raise TypeError(f"a GPU's memory cannot be read here: {function}")
        return super().__torch_function__(function, types, args, kwargs or {})

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("a GPU's memory cannot be read here")


def _goes_there(given: Any) -> bool:
    if isinstance(given, (list, tuple)):
        return all(map(_goes_there, given))
    return not isinstance(given, np.ndarray) and not (type(given) is torch.Tensor and given.dim() > 0)


def off_host(x: Any, name: str = "x") -> DeviceRows:
    """As :func:`on_gpu`, of values, and of all that is made of them, that numpy takes only from ``cpu()``."""
    rows = on_gpu(x, name)
    return DeviceRows(rows.values.as_subclass(_NotOnHost), rows.dtype, name)


# ------------------------------------------------------------------------------------------------------------- streams


@dataclass(eq=False)
class _Event:
    at: int  # by the clock of what the current stream was given
    to: int = 0  # where a copy goes
    settled: bool = False


class EmulatedCopies:
    """A stream of copies that is as early or as late as its events allow, and memory that is counted.

    A copy reads what the pinned memory holds when it is made: at once, or ``late``, when it is first waited for. What
    is found as soon as it is copied: a place that was lent since the event which the copy waits for, and pinned memory
    whose last copy the host has not waited for.
    """

    device = torch.device("cpu")

    def __init__(self, *, late: bool = False) -> None:
        self.late, self.clock, self.peak = late, 0, {"pinned": 0, "there": 0}
        self.queue: list[tuple[torch.Tensor, torch.Tensor, _Event]] = []
        self.lent: dict[int, int] = {}
        self.last_of: dict[int, _Event] = {}
        self.copied: list[int] = []  # bytes of every copy
        self.alive: dict[str, list[weakref.ref]] = {"pinned": [], "there": []}
        self.blocks: list[tuple[int, weakref.ref]] = []  # pinned, as torch's allocator has them
        self.most_blocks = 0  # bytes of them

    def pinned(self, size: int) -> torch.Tensor:
        """In a block of a power of two bytes, which another of that size takes over, until they are given back."""
        made = self._memory("pinned", size)
        block = 2 ** int(np.ceil(np.log2(size)))
        free = [at for at, (of, user) in enumerate(self.blocks) if of == block and not _in_use(user)]
        if free:
            self.blocks.pop(free[0])
        self.blocks.append((block, weakref.ref(made)))
        self.most_blocks = max(self.most_blocks, sum(of for of, _ in self.blocks))
        return made

    def unpin(self) -> None:
        gc.collect(0)
        self.blocks = [(of, user) for of, user in self.blocks if _in_use(user)]

    def there(self, size: int) -> torch.Tensor:
        return self._memory("there", size)

    def _memory(self, kind: str, size: int) -> torch.Tensor:
        made = torch.full((size,), 255, dtype=torch.uint8)  # of floats no numbers
        if kind == "pinned":
            made = torch.from_numpy(made.numpy().copy())  # which no Meter counts
        self.alive[kind].append(weakref.ref(made))
        self.peak[kind] = max(self.peak[kind], self.held(kind))
        self.lent.pop(made.data_ptr(), None)
        self.last_of.pop(made.data_ptr(), None)
        return made

    def held(self, kind: str) -> int:
        gc.collect(0)
        return sum(len(one) for one in (each() for each in self.alive[kind]) if one is not None)

    def copy(self, source: torch.Tensor, to: torch.Tensor, after: _Event) -> _Event:
        last = self.last_of.get(source.data_ptr())
        assert last is None or last.settled, "pinned memory is written while it may be copied"
        assert after.at > self.lent.get(to.data_ptr(), 0), "a place is overwritten while it may be read"
        event = self.last_of[source.data_ptr()] = _Event(self._tick(), to.data_ptr())
        self.queue.append((source, to, event))
        self.copied.append(len(to))
        if not self.late:
            self._run(event)
        return event

    def so_far(self) -> _Event:
        return _Event(self._tick())

    def wait(self, event: _Event) -> None:
        self._run(event)
        self.lent[event.to] = self._tick()

    def settle(self, event: _Event) -> None:
        self._run(event)
        event.settled = True

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def _run(self, event: _Event) -> None:
        while any(one is event for *_, one in self.queue):
            source, to, _ = self.queue.pop(0)
            to.copy_(source)


class Meter(TorchDispatchMode):
    """While it is entered: the most bytes that torch has had in tensors of its own memory, as those of a GPU would be.

    Not counted: tensors of numpy's memory, which the host's rows and pinned memory are here.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to skip the compiler takes seconds to import it

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[int, int]] = {}  # of every storage: tensors, bytes
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        made = function(*arguments, **(options or {}))
        for one in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(one, torch.Tensor) and one.untyped_storage().resizable():
                at, size = one.untyped_storage().data_ptr(), one.untyped_storage().nbytes()
                self.held[at] = self.held.get(at, (0, size))[0] + 1, size
                weakref.finalize(one, self._end, at)
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return made

    def _end(self, at: int) -> None:
        users, size = self.held.pop(at)
        if users > 1:
            self.held[at] = users - 1, size


def _in_use(user: weakref.ref) -> bool:
    return user() is not None


def streamed(x: Any, name: str = "x", *, late: bool = False) -> StreamedRows:
    """An array as rows with the host, for the GPU operations."""
    rows = as_rows(x, function="test", name=name)
    return StreamedRows(Uploads(rows, EmulatedCopies(late=late)), rows.dtype, name)
