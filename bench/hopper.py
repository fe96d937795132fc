"""The fused kernels for Hopper: whether they are right, and how fast, in one command on a machine with such a GPU.

    python -m bench.hopper build --cutlass DIR        # every variant, with nvcc; also works without a GPU
    python -m bench.hopper run --minutes 9 --out DIR  # correctness first, then times; prints as it goes

    compute-sanitizer python -m bench.hopper work 0 --only n=1000   # some of the checks, watched for bad accesses

Cases run in another process, each within a time limit; where one fails or hangs, a new process goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from . import hopper_cases
from .hopper_cases import PARTS, ROOT, SELECT, SUMS, Case, cases, operations

SOURCES = ("launch", "split", "kernel_sums", "nearest", "library")
START = 60  # seconds of importing torch
MOST_FAILURES = 3
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
        file = ROOT / f"csrc/cuda/hopper_{source}.cu"
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


def work(first: int, folder: Path, only: str, given_up: list[str]) -> int:
    """The cases from one on, in this process; a line of JSON for each. After an error a CUDA context may be lost."""
    hopper = operations()
    built = [path for path, *_ in libraries(folder) if path.exists()]
    for case in chosen_cases(built, only)[first:]:
        if case.kernel in given_up:
            continue
        os.environ["REPSIM_HOPPER_LIBRARY"] = str(built[case.library])
        hopper.forget_library()
        try:
            print(json.dumps(getattr(hopper_cases, case.kind)(**case.options)), flush=True)
        except Exception as error:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"[:600]}), flush=True)
            return 1
    return 0


def chosen_cases(built: list[Path], only: str) -> list[Case]:
    return [case for case in cases(len(built)) if only in case.label()]


def read_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def follow(todo: list[Case], command: list[str], deadline: float, out: Path, *, start: float = START) -> int:
    """Runs the cases through workers, ``command`` and the number of the first; returns how many are right or timed.

    A kernel that has failed or hung MOST_FAILURES times is given up: what is left of the time belongs to the others.
    """
    done = good = 0
    failures: Counter[str] = Counter()

    def tell(case: Case, result: dict[str, Any], took: float) -> None:
        nonlocal done, good
        right = result.get("right", "failed" not in result)
        done, good = done + 1, good + right
        record = {"case": case.kind, **case.options, "shape": case.shape, **result, "took": took}
        log.write(json.dumps(record) + "\n")
        log.flush()
        shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in result.items())
        print(f"{'' if right else 'WRONG '}{case.label()} | {case.shape} | {shown} | {took} s", flush=True)

    with open(out / "hopper.jsonl", "a") as log, open(out / "hopper.err", "a") as errors:
        while done < len(todo) and time.monotonic() < deadline:
            given_up = [kernel for kernel, count in failures.items() if count >= MOST_FAILURES]
            worker = subprocess.Popen(
                [*command, str(done), *given_up], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
            )
            lines: queue.Queue[str | None] = queue.Queue()
            threading.Thread(target=read_lines, args=(worker.stdout, lines), daemon=True).start()
            starting, alive = start, True
            while alive and done < len(todo) and time.monotonic() < deadline:
                case, begin = todo[done], time.monotonic()
                if case.kernel in given_up:
                    tell(case, {"failed": f"given up after {MOST_FAILURES} failures"}, 0)
                    continue
                limit = min(case.limit + starting, deadline - begin)
                result: dict[str, Any]
                try:
                    line = lines.get(timeout=limit)
                    result = {"failed": "the process ended; see hopper.err"} if line is None else json.loads(line)
                except queue.Empty:
                    result = {"failed": f"no end after {limit:.0f} s"}
                alive, starting = "failed" not in result, 0
                failures[case.kernel] += not alive
                tell(case, result, round(time.monotonic() - begin, 1))
            worker.kill()
            worker.wait()
    print(f"{good} of {len(todo)} right or timed, {done - good} wrong or failed, {len(todo) - done} not run")
    return good


def run(folder: Path, out: Path, minutes: float, only: str) -> int:
    """All cases whose description contains ``only``, in at most so many minutes."""
    deadline = time.monotonic() + 60 * minutes
    built = [path for path, *_ in libraries(folder) if path.exists()]
    if not built:
        raise SystemExit(f"[hopper] expected libraries in {folder}, got none: python -m bench.hopper build first")
    out.mkdir(parents=True, exist_ok=True)
    todo = chosen_cases(built, only)
    command = [sys.executable, "-m", "bench.hopper", "work", "--folder", str(folder), "--only", only]
    return int(follow(todo, command, deadline, out) < len(todo))


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
    go.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "build/hopper")))
    go.add_argument("--only", default="", help="cases whose description contains this")
    one = commands.add_parser("work", help="the cases from one on, in this process")
    one.add_argument("first", type=int)
    one.add_argument("given_up", nargs="*", help="kernels that are passed over")
    one.add_argument("--only", default="")
    for each in (make, go, one):
        each.add_argument("--folder", type=Path, default=ROOT / "build/hopper")
    given = parser.parse_args()
    if given.command == "build":
        build(given.folder, given.cutlass, given.jobs, given.variants, given.watchdog)
        return 0
    if given.command == "run":
        return run(given.folder, given.out, given.minutes, given.only)
    return work(given.first, given.folder, given.only, given.given_up)


if __name__ == "__main__":
    raise SystemExit(main())
