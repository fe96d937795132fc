"""Where C++ outside of this package finds the native operations."""

from __future__ import annotations

from pathlib import Path


def cmake_dir() -> str:
    """The folder from which CMake's ``find_package(repsim CONFIG)`` takes the target ``repsim::core``.

    Example::

        cmake -B build -Drepsim_DIR=$(python -c "import repsim; print(repsim.cmake_dir())")

    and in CMakeLists.txt, where ``repsim/ops.h`` then states every operation::

        find_package(repsim CONFIG REQUIRED)
        target_link_libraries(mine PRIVATE repsim::core)

    Raises
    ------
    FileNotFoundError: this package runs from a source tree, in which nothing was installed.
    """
    folder = Path(__file__).parent / "lib" / "cmake" / "repsim"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"[cmake_dir] expected the installed package, with its library and header, got {folder.parents[2]}"
        )
    return str(folder)
