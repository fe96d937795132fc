"""The fused kernels for Hopper: whether they are right, and how fast, in one command on a machine with such a GPU.

python -m bench.hopper build --cutlass DIR        # every variant, with nvcc; also works without a GPU
python -m bench.hopper run --minutes 9 --out DIR  # correctness first, then times; prints as it goes

python -m bench.hopper cases --only n=1000 >few            # some of the checks, watched for bad accesses:
compute-sanitizer python -m bench.hopper work <few
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import CHECKOUT, hopper_cases, isolated
from .hopper_cases import PARTS, SELECT, SUMS, Case, cases, operations

SOURCES = ("launch", "split", "kernel_sums", "nearest", "library")
PATIENCE = 4 * 10**9  # cycles, about 2 seconds


def libraries(folder: Path) -> list[tuple[Path, tuple[int, ...], tuple[int, ...]]]:
    """Where each variant is built, with its shapes for the sums and for the search."""
    return [(folder / f"hopper{m}.so", sums, select) for m, (sums, select) in enumerate(zip(SUMS, SELECT, strict=True))]


# ---------------------------------------------------------------------------------------------------------------- build


def build(folder: Path, cutlass: Path, jobs: int, count: int, watchdog: bool) -> None:
    """Compiles the first ``count`` variants, ``jobs`` files at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++20", "-O3", "-gencode", "arch=compute_90a,code=sm_90a"]
    options = [*flags, "--expt-relaxed-constexpr", "-Xptxas", "-v", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
    if watchdog:
        options.append(f"-DREPSIM_WATCHDOG_CYCLES={PATIENCE}LL")
    chosen = libraries(folder)[:count]

    def compile_one(job: tuple[int, str]) -> None:
        number, source = job
        _, sums, select = chosen[number]
        shapes = [f"-DREPSIM_{kernel}_{part}={value}" for kernel, shape in (("SUMS", sums), ("SELECT", select))
                  for part, value in zip(PARTS, shape, strict=True)]  # fmt: skip
        file = CHECKOUT / f"csrc/cuda/hopper_{source}.cu"
        out = folder / f"{number}_{source}.o"
        command = ["nvcc", *options, *shapes, f"-I{cutlass}", "-c", str(file), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        (folder / f"{number}_{source}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-4000:]}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile_one, [(m, source) for m in range(len(chosen)) for source in SOURCES]))
    for number, (path, *_) in enumerate(chosen):
        objects = [str(folder / f"{number}_{source}.o") for source in SOURCES]
        subprocess.run(["nvcc", "-shared", "-cudart", "static", *flags[2:], "-o", str(path), *objects], check=True)
        print(f"built {path}")


# ------------------------------------------------------------------------------------------------------------------ run


def work(folder: Path) -> int:
    """The cases that come on stdin, in this process."""
    hopper = operations()
    built = built_in(folder)

    def answer(request: dict[str, Any]) -> isolated.Result:
        os.environ["REPSIM_HOPPER_LIBRARY"] = str(built[request["library"]])
        hopper.forget_library()
        result: isolated.Result = getattr(hopper_cases, request["case"])(**request["options"])
        return result

    return isolated.serve(answer, lambda: importlib.import_module("torch"))


def built_in(folder: Path) -> list[Path]:
    """The variants that were built.

    Raises
    ------
    SystemExit: there are none.
    """
    built = [path for path, *_ in libraries(folder) if path.exists()]
    if not built:
        raise SystemExit(f"[hopper] expected libraries in {folder}, got none: python -m bench.hopper build first")
    return built


def chosen_cases(folder: Path, only: str) -> list[Case]:
    return [case for case in cases(len(built_in(folder))) if only in case.label()]


def run(folder: Path, out: Path, minutes: float, only: str) -> int:
    """All cases whose description contains ``only``, in at most so many minutes."""
    deadline = time.monotonic() + 60 * minutes
    todo = chosen_cases(folder, only)
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.hopper", "work", "--folder", str(folder)]
    records = list(isolated.follow(todo, command, deadline, out / "hopper", folder=CHECKOUT))
    print(isolated.tally(records, len(todo)))
    return int(any(isolated.is_bad(one) or "not_run" in one for one in records))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hopper", description=__doc__.split("\n")[0] if __doc__ else None
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="compile the variants")
    make.add_argument("--cutlass", type=Path, required=True, help="the folder that holds cute/ and cutlass/")
    make.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    make.add_argument("--watchdog", action="store_true", help="what hangs ends and names its barrier; slow")
    make.add_argument("--variants", type=int, default=len(SUMS))
    go = commands.add_parser("run", help="check and time")
    go.add_argument("--minutes", type=float, default=9.0)
    go.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", CHECKOUT / "build/hopper")))
    names = commands.add_parser("cases", help="what work takes")
    one = commands.add_parser("work", help="the cases on stdin, in this process")
    for each in (go, names):
        each.add_argument("--only", default="", help="cases whose description contains this")
    for each in (make, go, names, one):
        each.add_argument("--folder", type=Path, default=CHECKOUT / "build/hopper")
    given = parser.parse_args()
    if given.command == "build":
        build(given.folder, given.cutlass, given.jobs, given.variants, given.watchdog)
        return 0
    if given.command == "run":
        return run(given.folder, given.out, given.minutes, given.only)
    if given.command == "cases":
        print(*(json.dumps(case.request) for case in chosen_cases(given.folder, given.only)), sep="\n")
        return 0
    return work(given.folder)


if __name__ == "__main__":
    raise SystemExit(main())
