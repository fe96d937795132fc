"""C++ outside of the tree builds on the installed package alone, and gets the numbers that Python gets."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim

SOURCE = Path(__file__).parent / "cpp_api"


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The extension module of cpp_api/, built by CMake."""
    try:
        package = repsim.cmake_dir()
    except FileNotFoundError as error:
        pytest.skip(f"{error}: install repsim to test what it installs")
    cmake, pybind11 = pytest.importorskip("cmake"), pytest.importorskip("pybind11")
    ninja = pytest.importorskip("ninja")
    build = tmp_path_factory.mktemp("cpp_api")
    tool = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
    run(
        tool, "-S", str(SOURCE), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_MAKE_PROGRAM={ninja.BIN_DIR}/ninja", f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-Drepsim_DIR={package}",
    )  # fmt: skip
    run(tool, "--build", str(build), "--parallel", "2")
    (built,) = build.glob("example*.so")
    spec = importlib.util.spec_from_file_location("example", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def test_hsic_is_that_of_python(example: Any) -> None:
    x = rows(500, 12, 0)
    y = x[:, :7] + rows(500, 7, 1)
    for threads in (1, 2):
        assert example.hsic(x, y, threads) == pytest.approx(repsim.hsic(x, y).value, rel=1e-6)


@pytest.mark.parametrize("apart", [pytest.param(0, id="float32-decides"), pytest.param(2e5, id="settled-in-float64")])
def test_nearest_is_that_of_python(example: Any, apart: float) -> None:
    x = rows(500, 12, 2)
    x[400:] = x[:100]
    x[::2] += np.float32(apart)
    for k in (1, 10, 499):
        indices, scores = example.nearest(x, k, 2)
        graph = repsim.nearest(x, k, metric="euclidean")
        np.testing.assert_array_equal(indices, graph.indices)
        np.testing.assert_array_equal(scores.astype(np.float32), graph.scores)


def test_exceptions_cross_the_library(example: Any) -> None:
    with pytest.raises(ValueError, match="float32"):
        example.nearest(np.full((5, 3), 3e38, np.float32), 1, 1)


def test_a_source_tree_says_that_nothing_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("repsim.native.__file__", str(tmp_path / "repsim" / "native.py"))
    with pytest.raises(FileNotFoundError, match=r"^\[cmake_dir\] expected the installed package"):
        repsim.cmake_dir()
