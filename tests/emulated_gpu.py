"""repsim._cuda with kernels that are loops on the host: what runs on a GPU, on a machine without one."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repsim.arrays import DeviceRows
from repsim.reductions import device, device_grid

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
    return module()


def on_gpu(x: Any, name: str = "x") -> DeviceRows:
    """An array as rows that the GPU operations work on, here in the memory of the CPU."""
    tensor = x if isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x))
    return DeviceRows(tensor, str(tensor.dtype).removeprefix("torch."), name)
