"""``python -m bench gpu``: repsim on one GPU, right first, then how fast beside the GPU's own products and its peers.

Cases run in another process, each within a time limit. They are printed, and added to gpu.jsonl, as they come; gpu.md
holds the tables. What does not fit in the minutes that are left is not run, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repsim.records import write_atomic

from . import CHECKOUT, isolated, machine
from .gpu_cases import ENOUGH, GEMM_SIZE
from .isolated import Result
from .tables import ABSENT, section, show

SIZES = (100_000, 300_000, 1_000_000)
SHORT, LONG = 60.0, 120.0  # seconds of a case, and of one of the largest size
PORTABLE, FUSED, LINEAR = "repsim, portable", "repsim, fused", "repsim"
WORDS = {"highest": "float32", "high": "tfloat32", "medium": "bfloat16"}
GEMM = {"float32": "highest", "tfloat32": "high", "bfloat16": "medium", "float64": "float64"}
NEIGHBOURS = ((1024, 10), (128, 15))  # d and k
PEERS = (("torch", "bfloat16"), ("torch", "float32"), ("cupy", "float32"), ("faiss", "float32"), ("cuvs", "float32"),
         ("flashlib", "bfloat16"), ("flashlib", "float32"))  # fmt: skip
LIBRARIES = (
    "torch",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "faiss-gpu",
    "faiss-gpu-cu12",
    "cuvs-cu12",
    "cuvs-cu13",
    "flashlib",
)
TITLES = {
    "rbf_cka": "RBF CKA",
    "nearest": "nearest",
    "linear": "linear CKA",
    "linear_from_disk": "linear CKA from disk",
}
MEASURES = (  # of products of features, of distances, and of lists
    "svcca",
    "procrustes",
    "ridge_regression",
    "aligned_cosine",
    "rsa",
    "distance_correlation",
    "second_order_cosine",
)
LINEAR_CASES = ("linear", "linear_from_disk")  # in float64, by products of features
FROM_DISK = (1_000_000, 10_000_000)  # rows of 256 features
SUMMARIES = {
    "rbf_cka": "debiased, both kernels of one given sigma; 2 n^2 d flop",
    "nearest": "k best of all other rows by the cosine, of rows of length 1; n^2 d flop",
    "linear": "debiased, in float64; 6 n d^2 flop",
    "linear_from_disk": "the same of two memory maps, whose rows are brought to the GPU in blocks; files in memory",
}
METHOD = """\
Medians of wall times of whole calls on rows that lie on the GPU, until it has nothing left to do; as many calls as fit
in {enough:g} s, 5 at most, after one on few rows. TFLOP/s count what the formula under a title says, every pair of rows
once, whatever a contender does. "of GEMM" is the share of the rate of torch's product of the same words, measured in
this run; fused kernels make float32 of six products of bfloat16. "over repsim" is the time over that of the faster row
of repsim with the same words: above 1, repsim is faster. Memory is the peak of what torch allocates, rows included;
CuPy, faiss and cuVS allocate their own, which is not seen. From disk: files that memory holds, after one call on files
that it does not (cold_seconds in gpu.jsonl). "identical" is the share of the neighbours in float64 of
sampled rows. repsim's lists are exact whatever the filter; bfloat16 lists of others are not.
"""


@dataclass(frozen=True)
class Case:
    """A check or a time: a function of bench.gpu_cases, and what it is given."""

    case: str
    options: dict[str, Any]
    limit: float = SHORT

    @property
    def title(self) -> str:
        return " | ".join([self.case, " ".join(f"{name}={value}" for name, value in self.options.items())])

    @property
    def group(self) -> str:
        return " ".join([self.case, *(value for value in self.options.values() if isinstance(value, str))])

    @property
    def request(self) -> dict[str, Any]:
        return {"case": self.case, "options": self.options}


# --------------------------------------------------------------------------------------------------------------- cases


def cases(fused: bool, sizes: Sequence[int] = SIZES) -> Iterator[Case]:
    """Checks; the GPU's own products; the smallest size; repsim at the largest; what lies between; the peers there."""
    routes = (PORTABLE, FUSED) if fused else (PORTABLE,)
    yield Case("cka_is_right", {"contender": PORTABLE, "kernel": "linear", "precision": "highest", "n": 5003, "d": 130})
    for contender in routes:
        for n, d in ((5003, 130), (20000, 512)):
            for precision in WORDS:
                options = {"contender": contender, "kernel": "rbf", "precision": precision, "n": n, "d": d}
                yield Case("cka_is_right", options)
            for filter in ("bfloat16", "float32"):
                for metric in ("cosine", "inner_product", "euclidean"):
                    options = {"contender": contender, "metric": metric, "filter": filter, "n": n, "d": d, "k": 10}
                    yield Case("nearest_is_right", options)
    for contender in routes:
        yield Case("from_the_host_is_right", {"contender": contender, "n": 20_000, "d": 130})
    for measure in MEASURES:
        yield Case("measure_is_right", {"contender": PORTABLE, "measure": measure, "n": 5003, "d": 130})
    for precision in GEMM.values():
        yield Case("gemm", {"precision": precision})
    *others, largest = sizes
    yield from (case for n in others[:1] for part in (repsim_at(n, fused), peers_at(n)) for case in part)
    yield from repsim_at(largest, fused)
    for n in FROM_DISK:
        yield Case("linear_from_disk", {"contender": LINEAR, "n": n, "d": 256}, LONG)
    yield from (case for n in others[1:] for part in (repsim_at(n, fused), peers_at(n)) for case in part)
    yield from peers_at(largest)


def repsim_at(n: int, fused: bool) -> Iterator[Case]:
    """What the goals ask for first, what takes longest last."""
    yield timed("linear", {"contender": LINEAR, "n": n, "d": 1024})
    for filter in ("bfloat16", "float32"):
        for d, k in NEIGHBOURS:
            for contender in (FUSED, PORTABLE) if fused else (PORTABLE,):
                yield timed("nearest", {"contender": contender, "filter": filter, "n": n, "d": d, "k": k})
    for precision in reversed(WORDS):
        for contender in (FUSED, PORTABLE) if fused else (PORTABLE,):
            yield timed("rbf_cka", {"contender": contender, "precision": precision, "n": n, "d": 1024})


def peers_at(n: int) -> Iterator[Case]:
    yield timed("linear", {"contender": "torch", "n": n, "d": 1024})
    for d, k in NEIGHBOURS:
        for contender, filter in PEERS:
            yield timed("nearest", {"contender": contender, "filter": filter, "n": n, "d": d, "k": k})
    for contender, precision in (*(("torch", one) for one in reversed(WORDS)), ("cupy", "highest")):
        yield timed("rbf_cka", {"contender": contender, "precision": precision, "n": n, "d": 1024})


def timed(case: str, options: dict[str, Any]) -> Case:
    return Case(case, options, LONG if options["n"] == SIZES[-1] else SHORT)


def too_long(case: Case, left: float, records: Sequence[Result]) -> str:
    """Why the case should not run in the seconds that are left, by what a smaller one like it took; mostly empty."""
    rest = {name: value for name, value in case.options.items() if name != "n"}
    smaller = [
        one for one in records
        if one["case"] == case.case and "seconds" in one and one["options"]["n"] < case.options["n"]
        and {name: value for name, value in one["options"].items() if name != "n"} == rest
    ]  # fmt: skip
    if not smaller:
        return ""
    like = max(smaller, key=lambda one: one["options"]["n"])
    growth = case.options["n"] / like["options"]["n"]
    around = max(like["took"] - like["calls"] * like["seconds"], 0)  # making the rows, checking what was found
    call = like["seconds"] * (growth if case.case in LINEAR_CASES else growth**2)
    needed = call + ENOUGH + around * growth
    if needed > left:
        return f"would take about {needed:.0f} s, {left:.0f} s are left"
    return f"would take about {needed:.0f} s, a case may take {case.limit:.0f} s" if needed > case.limit else ""


# -------------------------------------------------------------------------------------------------------------- tables


def flop(case: str, options: dict[str, Any]) -> float:
    n, d = float(options.get("n", GEMM_SIZE)), float(options.get("d", GEMM_SIZE))
    if case in LINEAR_CASES:
        return 6 * n * d * d
    return {"rbf_cka": 2 * n * n * d, "nearest": n * n * d, "gemm": 2 * n * n * d}[case]


def words_of(record: Result) -> str:
    """What products are made in."""
    options = record["options"]
    return "float64" if record["case"] in LINEAR_CASES else options.get("filter") or WORDS[options["precision"]]


def is_ours(record: Result) -> bool:
    return str(record["options"].get("contender", LINEAR)).startswith("repsim")


def page(facts: dict[str, str], records: Sequence[Result], whole: int, minutes: float) -> str:
    """All that is known so far."""
    rates = {
        words: flop("gemm", {}) / one["seconds"]
        for words, precision in GEMM.items()
        for one in records
        if one["case"] == "gemm" and one["options"]["precision"] == precision and "seconds" in one
    }
    known = [
        "# Measured on a GPU\n",
        *(f"- {name}: {value}" for name, value in facts.items()),
        f"- duration: {minutes:.1f} minutes",
        "",
        METHOD.format(enough=ENOUGH),
        _checks([one for one in records if one["case"].endswith("_is_right")]),
        section(
            f"gemm: {GEMM_SIZE} x {GEMM_SIZE} by {GEMM_SIZE} x {GEMM_SIZE}", "torch's product", ("words", "TFLOP/s"),
            [(words, f"{rate / 1e12:.0f}") for words, rate in rates.items()],
        ),
        _goals(records, rates),
    ]  # fmt: skip
    shapes = dict.fromkeys(_shape(one) for one in records if one["case"] in TITLES)
    known += [_section([one for one in records if _shape(one) == shape], rates) for shape in sorted(shapes)]
    return "\n".join([*known, isolated.tally(records, whole)])


def _shape(record: Result) -> tuple[str, int, int, int]:
    options = record["options"]
    return record["case"], options.get("d", 0), options.get("k", 0), options.get("n", 0)


def _checks(checks: Sequence[Result]) -> str:
    wrong = [
        (one["case"], " ".join(f"{k}={v}" for k, v in one["options"].items()), json.dumps(_outcome(one)))
        for one in checks
        if isolated.is_bad(one) or "not_run" in one
    ]
    right = sum("right" in one and one["right"] for one in checks)
    summary = f"{right} of {len(checks)} right: against float64, from call to call, in other blocks"
    return section("checks", summary, ("check", "of", "what came"), wrong) if wrong else f"## checks\n\n{summary}\n"


def _outcome(record: Result) -> Result:
    return {name: value for name, value in record.items() if name not in ("case", "options", "took")}


GOALS: tuple[tuple[str, tuple[str, int, int, int], str, float], ...] = (
    ("RBF CKA, n = 10^6, d = 1024", ("rbf_cka", 1024, 0, 1_000_000), "bfloat16", 3.4),
    ("the same", ("rbf_cka", 1024, 0, 1_000_000), "float32", 10.0),
    ("nearest, certified, n = 10^6, d = 1024, k = 10", ("nearest", 1024, 10, 1_000_000), "bfloat16", 3.0),
    ("nearest, certified, n = 10^6, d = 128, k = 15", ("nearest", 128, 15, 1_000_000), "bfloat16", 0.8),
    ("linear CKA, n = 10^6, d = 1024", ("linear", 1024, 0, 1_000_000), "float64", 0.12),
)


def _goals(records: Sequence[Result], rates: dict[str, float]) -> str:
    rows = []
    for title, shape, words, goal in GOALS:
        ours = [one for one in records if _shape(one) == shape and is_ours(one) and words_of(one) == words]
        best = _fastest(ours)
        if best is None:
            rows.append((title, words, f"{goal:g} s", "not measured", ABSENT, ABSENT, ABSENT))
            continue
        share = _share(best, rates)
        met = "yes" if best["seconds"] <= goal else "no"
        rows.append((title, words, f"{goal:g} s", f"{best['seconds']:.3g} s", best["options"]["contender"], share, met))
    columns = ("job", "words", "goal on an H200", "measured", "by", "of GEMM", "met")
    summary = "the faster of repsim's routes; every search of repsim is certified, that without proof has no row here"
    return section("goals", summary, columns, rows)


def _fastest(records: Sequence[Result]) -> Result | None:
    return min((one for one in records if "seconds" in one), key=lambda one: one["seconds"], default=None)


def _share(record: Result, rates: dict[str, float]) -> str:
    rate = rates.get(words_of(record))
    return f"{flop(record['case'], record['options']) / record['seconds'] / rate:.0%}" if rate else ABSENT


def _section(records: Sequence[Result], rates: dict[str, float]) -> str:
    """One job at one size."""
    ranks = list(GEMM)
    ordered = sorted(records, key=lambda one: (not is_ours(one), ranks.index(words_of(one))))
    case, d, k, n = _shape(ordered[0])
    neighbours = case == "nearest"
    rows = []
    for one in ordered:
        name, words = one["options"]["contender"], words_of(one)
        if "seconds" not in one:
            why = one.get("failed") or one.get("not_run") or ""
            rows.append((name, words, " ".join(why.split()).replace("|", "/"), *[ABSENT] * 6))
            continue
        best = _fastest([ours for ours in records if is_ours(ours) and words_of(ours) == words])
        compared = best is not None and not is_ours(one)
        rows.append((
            name,
            words,
            f"{one['seconds']:.3g} s",
            str(one["calls"]),
            f"{flop(case, one['options']) / one['seconds'] / 1e12:.1f}",
            _share(one, rates),
            f"{one['seconds'] / best['seconds']:.2f}" if compared and best else ABSENT,
            f"{one['peak_bytes'] / 1e9:.2f} GB" if "peak_bytes" in one else ABSENT,
            f"{one['identical']:.6f}" if neighbours else _difference(one, ordered[0]),
        ))  # fmt: skip
    columns = ("contender", "words", "median", "calls", "TFLOP/s", "of GEMM", "over repsim", "peak of torch's memory",
               "identical" if neighbours else "difference from the first row")  # fmt: skip
    return section(f"{TITLES[case]}: n = {n}, d = {d}" + (f", k = {k}" if k else ""), SUMMARIES[case], columns, rows)


def _difference(record: Result, first: Result) -> str:
    return f"{abs(record['value'] - first['value']):.1e}" if record is not first and "value" in first else ABSENT


# ------------------------------------------------------------------------------------------------------------- command


def missing() -> str:
    """Why nothing can be measured here; empty where it can."""
    import torch

    from repsim.reductions import has_gpu_operations

    if not torch.cuda.is_available():
        return "no GPU that torch sees"
    if not has_gpu_operations():
        return "repsim was built without GPU operations; build it with REPSIM_CUDA=ON"
    return "" if torch.cuda.get_device_capability() >= (8, 0) else "a GPU before compute capability 8.0"


def gpu_facts(fused: bool) -> dict[str, str]:
    import torch

    from repsim.reductions import hopper

    device = torch.cuda.get_device_properties(0)
    driver = "driver unknown"
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        asked = [
            "nvidia-smi",
            "--id=0",
            "--query-gpu=driver_version,power.limit,clocks.max.sm",
            "--format=csv,noheader",
        ]
        driver = "driver, power, clock: " + subprocess.check_output(asked, text=True, timeout=30).strip()
    versions = [f"{name} {version}" for name in LIBRARIES if (version := machine.version(name))]
    return {
        "GPU": f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {device.multi_processor_count} processors, "
        f"capability {device.major}.{device.minor}; {driver}",
        "libraries": ", ".join([*versions, f"CUDA {torch.version.cuda}"]),
        "fused kernels": "measured" if fused else f"not here: no Hopper GPU, or no library at {hopper.library_path()}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, time, print, write; returns 0, 1 without a GPU or where repsim was wrong or failed, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=7.5, help="time for all cases (default: 7.5)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT", CHECKOUT / "build/gpu")),
        help="the folder of gpu.jsonl, gpu.err and gpu.md (default: $OUT, or build/gpu)",
    )
    parser.add_argument("--only", default="", help="cases whose description contains this")
    options = parser.parse_args(arguments)
    why = missing()
    if why:
        print(f"bench gpu: {why}", file=sys.stderr)
        return 1

    from repsim.reductions import hopper

    fused = hopper.available("cuda")
    facts = {**machine.facts(), **gpu_facts(fused)}
    todo = [case for case in cases(fused) if options.only in case.title]
    if not todo:
        parser.error(f"argument --only: expected a part of a case such as {next(cases(fused)).title!r}")
    return measure(todo, facts, options.out, 60 * options.minutes, [sys.executable, "-m", "bench.gpu_cases"])


def measure(todo: Sequence[Case], facts: dict[str, str], out: Path, seconds: float, command: Sequence[str]) -> int:
    """All cases within so many seconds, by workers; returns as :func:`main`."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "gpu.jsonl", "a") as log:
        log.write(json.dumps({"facts": facts}) + "\n")
    records: list[Result] = []
    interrupted = False
    try:
        for record in isolated.follow(
            todo, command, begin + seconds, out / "gpu", folder=CHECKOUT,
            obstacle=lambda case, left: too_long(case, left, records),
        ):  # fmt: skip
            records.append(record)
    except KeyboardInterrupt:
        interrupted = True
    text = page(facts, records, len(todo), (time.monotonic() - begin) / 60)
    write_atomic(out / "gpu.md", text.encode())
    show(text)
    if interrupted:
        return 130
    return int(any(is_ours(one) and isolated.is_bad(one) for one in records))


if __name__ == "__main__":
    sys.exit(main())
