"""`python -m bench gpu` on a machine without one: its cases on CPU tensors at tiny sizes, its workers, its tables."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim.measures.neighbours import Neighbours

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # bench is run from a checkout; it is not installed

from bench import gpu, gpu_cases, gpu_peers, hopper_cases, isolated  # noqa: E402
from bench.__main__ import main as bench_main  # noqa: E402

PORTABLE = gpu.PORTABLE


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The cases on CPU tensors; the last chunk of rows is a short one."""
    for name, value in {"DEVICE": "cpu", "GEMM_SIZE": 32, "MOST_CALLS": 2}.items():
        monkeypatch.setattr(gpu_cases, name, value)
    for name, rows in {"TORCH_ROWS": 70, "LIFTED_ROWS": 90}.items():
        monkeypatch.setattr(gpu_peers, name, rows)
    return monkeypatch


# ------------------------------------------------------------------------------------------------------------- workers


@pytest.fixture(autouse=True)
def workers_import_what_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


def worker(tmp_path: Path, answer: str) -> list[str]:
    """A worker whose answers are an expression of the option ``n``."""
    file = tmp_path / "worker.py"
    file.write_text(
        "import os, sys, time\n"
        "from bench import isolated\n"
        "def answer(request):\n"
        "    n = request['options']['n']\n"
        "    os.write(1, b'what libraries say\\n')\n"
        f"    return {answer}\n"
        "sys.exit(isolated.serve(answer))\n"
    )
    return [sys.executable, str(file)]


def follow(todo: list[Any], command: list[str], seconds: float, tmp_path: Path, **options: Any) -> list[Any]:
    deadline = time.monotonic() + seconds
    return list(isolated.follow(todo, command, deadline, tmp_path / "log", folder=ROOT, **options))


def test_a_case_that_hangs_or_dies_does_not_end_the_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = worker(
        tmp_path,
        "time.sleep(60) if n == 1 else os._exit(3) if n == 2 else [][n] if n == 4 else {'right': n != 3}",
    )
    todo = [hopper_cases.Case("sums_are_right", n, {"n": n}, limit=1) for n in range(6)]
    records = follow(todo, command, 60, tmp_path, start=10)
    shown = capsys.readouterr().out
    assert "WRONG sums_are_right n=1 | 128x192 4 stages cluster 1x1 supertile 160 | failed=no end after" in shown
    outcomes = [one.get("failed") or one["right"] for one in records]
    ended, raised = "the process ended; see its .err file", "IndexError: list index out of range"
    assert outcomes == [True, "no end after 1 s", ended, False, raised, True]
    assert isolated.tally(records, 7) == "2 of 7 right or timed, 4 wrong or failed, 1 not run"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == records and lines[0]["library"] == 0 and lines[0]["options"] == {"n": 0}
    assert "what libraries say" in (tmp_path / "log.err").read_text()
    assert [one["not_run"] for one in follow(todo, command, -1, tmp_path)] == ["no time is left"] * 6


def test_what_keeps_failing_is_given_up_and_what_must_not_run_says_why(tmp_path: Path) -> None:
    command = worker(tmp_path, "os._exit(3) if n % 2 else {}")
    todo = [hopper_cases.Case("sums_are_right", n % 2, {"n": n}) for n in range(10)]
    records = follow(
        todo, command, 60, tmp_path, obstacle=lambda case, left: "too large" if case.options["n"] == 8 else ""
    )
    assert ["failed" in one for one in records] == [n in (1, 3, 5) for n in range(10)]
    assert {n: one["not_run"] for n, one in enumerate(records) if "not_run" in one} == {
        7: "given up after 3 failures", 8: "too large", 9: "given up after 3 failures",
    }  # fmt: skip


def test_a_case_that_the_time_cuts_short_has_not_failed(tmp_path: Path) -> None:
    todo = [hopper_cases.Case("sums_are_right", 0, {"n": n}) for n in range(3)]
    records = follow(todo, worker(tmp_path, "time.sleep(60 * n) or {}"), 2.5, tmp_path)
    over = "the time was over before it had ended"
    assert [one.get("not_run") for one in records] == [None, over, "no time is left"]
    assert isolated.tally(records, 3) == "1 of 3 right or timed, 0 wrong or failed, 2 not run"


# --------------------------------------------------------------------------------------------------------------- cases


CHECKS = [
    *(("cka_is_right", {"contender": PORTABLE, "kernel": kernel, "precision": "highest", "n": 200, "d": 20})
      for kernel in ("rbf", "linear")),
    *(("nearest_is_right", {"contender": PORTABLE, "metric": metric, "filter": "float32", "n": 200, "d": 20, "k": 5})
      for metric in ("cosine", "inner_product", "euclidean")),
    *(("measure_is_right", {"contender": PORTABLE, "measure": measure, "n": 60, "d": 5}) for measure in gpu.MEASURES),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "options"),
    CHECKS,
    ids=lambda one: (
        one if isinstance(one, str) else next(v for k, v in one.items() if k in ("kernel", "metric", "measure"))
    ),
)
def test_checks_pass_what_is_right(on_the_cpu: Any, case: str, options: dict[str, Any]) -> None:
    result = gpu_cases.answer({"case": case, "options": options})
    assert result["right"] and result["same_bits"], result


@pytest.mark.parametrize(
    "off", [pytest.param((0, 1e-6, 1e-6, 1e-6), id="value"), pytest.param((0, 0, 0, 1e-12), id="bits-from-the-host")]
)
def test_checks_find_a_measure_that_is_off(on_the_cpu: Any, off: tuple[float, ...]) -> None:
    right, errors = repsim.procrustes, iter(off)
    on_the_cpu.setattr(repsim, "procrustes", lambda *a, **b: SimpleNamespace(value=right(*a, **b).value + next(errors)))
    options = {"contender": PORTABLE, "measure": "procrustes", "n": 60, "d": 5}
    assert not gpu_cases.answer({"case": "measure_is_right", "options": options})["right"]


@pytest.mark.parametrize(
    "off", [pytest.param((1e-4,) * 3, id="value"), pytest.param((0, 0, 1e-9), id="bits-of-blocks")]
)
def test_checks_find_a_cka_that_is_off(on_the_cpu: Any, off: tuple[float, ...]) -> None:
    right, errors = repsim.cka, iter(off)
    on_the_cpu.setattr(repsim, "cka", lambda *a, **b: SimpleNamespace(value=right(*a, **b).value + next(errors)))
    assert not gpu_cases.answer({"case": "cka_is_right", "options": CHECKS[0][1]})["right"]


@pytest.mark.parametrize("wrong", ["another-row", "twice", "from-call-to-call"])
def test_checks_find_lists_that_are_off(on_the_cpu: Any, wrong: str) -> None:
    right, calls = repsim.nearest, []

    def off(*arguments: Any, **options: Any) -> Neighbours:
        graph = right(*arguments, **options)
        calls.append(graph)
        indices = np.asarray(graph.indices)
        if wrong == "another-row":
            indices[7, 4] = next(row for row in range(8, 200) if row not in indices[7])
        elif wrong == "twice":
            indices[7, 4] = indices[7, 3]
        elif len(calls) == 2:
            indices[7, 3:] = indices[7, [4, 3]]
        return SimpleNamespace(indices=indices)  # type: ignore[return-value]

    on_the_cpu.setattr(repsim, "nearest", off)
    result = gpu_cases.answer({"case": "nearest_is_right", "options": CHECKS[2][1]})
    assert not result["right"]
    assert result["same_bits"] == (wrong != "from-call-to-call")


class NumpyAsCupy:
    """CuPy's names on numpy."""

    def __getattr__(self, name: str) -> Any:
        return {"asnumpy": np.asarray, "get_default_memory_pool": None}.get(name) or getattr(np, name)


def knn(x: torch.Tensor, k: int) -> torch.Tensor:
    return (x.float() @ x.float().T).topk(k, dim=1).indices


def peers_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = SimpleNamespace(
        StandardGpuResources=lambda: SimpleNamespace(setDefaultNullStreamAllDevices=lambda: None),
        METRIC_INNER_PRODUCT=0,
        knn_gpu=lambda resources, x, base, k, metric: (None, knn(x, k)),
    )
    cuvs = SimpleNamespace(
        build=lambda x, metric: x if metric == "inner_product" else None,
        search=lambda base, x, k: (None, knn(x, k).int()),
    )
    flashlib = SimpleNamespace(flash_knn=lambda x, base, k, return_distances: knn(x, k).int())
    modules = {"cupy": NumpyAsCupy(), "faiss": faiss, "faiss.contrib.torch_utils": None,
               "cuvs.neighbors.brute_force": cuvs, "flashlib": flashlib}  # fmt: skip
    monkeypatch.setattr(gpu_peers.importlib, "import_module", lambda name: modules[name])


def test_every_contender_finds_the_neighbours(on_the_cpu: pytest.MonkeyPatch) -> None:
    peers_on_the_cpu(on_the_cpu)
    for contender in (PORTABLE, *gpu_peers.NEAREST):
        options = {"contender": contender, "filter": "float32", "n": 200, "d": 20, "k": 5}
        found = gpu_cases.answer({"case": "nearest", "options": options})
        assert found["identical"] == 1.0 and found["seconds"] > 0 and found["calls"] == 2, (contender, found)
    rounded = gpu_cases.nearest("torch", "bfloat16", 200, 20, 5)
    assert 0.9 < rounded["identical"] < 1.0


def test_every_contender_finds_the_cka(on_the_cpu: pytest.MonkeyPatch) -> None:
    x, y = gpu_cases.related_rows(200, 20)
    sigma = (4.0 * 20) ** 0.5
    exact = repsim.cka(x, y, kernel=repsim.RBF(sigma=sigma)).value
    peers_on_the_cpu(on_the_cpu)
    for contender in (PORTABLE, "torch", "cupy"):
        found = gpu_cases.rbf_cka(contender, "highest", 200, 20)
        assert found["value"] == pytest.approx(exact, abs=1e-5), contender
    assert gpu_cases.rbf_cka("torch", "medium", 200, 20)["value"] == pytest.approx(exact, abs=2e-3)
    values = [gpu_cases.linear(contender, 200, 20)["value"] for contender in ("repsim", "torch")]
    assert values[0] == pytest.approx(values[1], abs=1e-9)
    median = torch.pdist(x).median()
    assert sigma == pytest.approx(float(median), rel=0.2)  # of few features, each direction weighs much


def test_rows_of_the_host_are_compared_with_rows_that_lie_there(on_the_cpu: pytest.MonkeyPatch) -> None:
    found = gpu_cases.answer({"case": "from_the_host_is_right", "options": {"contender": PORTABLE, "n": 200, "d": 20}})
    assert found == {"right": True, "wrong": []}
    right, calls = repsim.nearest, []

    def off(*arguments: Any, **options: Any) -> Neighbours:
        calls.append(options)
        return right(*arguments, **{**options, "k": 9 if len(calls) == 3 else 10})

    on_the_cpu.setattr(repsim, "nearest", off)
    found = gpu_cases.answer({"case": "from_the_host_is_right", "options": {"contender": PORTABLE, "n": 200, "d": 20}})
    assert found == {"right": False, "wrong": ["nearest cosine 192"]}


def test_files_are_read_from_disk(on_the_cpu: pytest.MonkeyPatch) -> None:
    on_the_cpu.setattr(gpu_cases, "WRITTEN_ROWS", 90)
    on_the_cpu.setattr(repsim, "cka", lambda *a, cka=repsim.cka, device="cpu", **b: cka(*a, **b))
    found = gpu_cases.answer({"case": "linear_from_disk", "options": {"contender": "repsim", "n": 200, "d": 20}})
    assert 0 < found["value"] < 1 and found["cold_seconds"] > 0 and found["calls"] == 2
    with gpu_cases.on_disk(200, 20) as files:
        x, y = (np.load(file) for file in files)
    assert found["value"] == repsim.cka(x, y).value
    assert not files[0].exists()
    values = iter((0.5, 0.25))
    on_the_cpu.setattr(repsim, "cka", lambda *a, **b: SimpleNamespace(value=next(values)))
    with pytest.raises(RuntimeError, match=r"expected 0\.5 as of rows on the GPU, got 0\.25"):
        gpu_cases.linear_from_disk("repsim", 200, 20)


def test_gemm_puts_the_settings_back(on_the_cpu: Any) -> None:
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    for precision in gpu.GEMM.values():
        assert gpu_cases.gemm(precision)["seconds"] > 0
    with gpu_peers.products_in("high"):
        assert settings.fp32_precision == "tf32"
    assert settings.fp32_precision == before


def test_duplicates_that_push_a_row_off_its_list() -> None:
    found = torch.tensor([[1, 2, 3], [1, 0, 2], [0, 2, 1]])
    assert gpu_peers.without_itself(found, 2).tolist() == [[1, 2], [0, 2], [0, 1]]


def test_peers_that_are_not_here_are_not_run(on_the_cpu: pytest.MonkeyPatch) -> None:
    on_the_cpu.setitem(sys.modules, "cupy", None)
    on_the_cpu.setitem(sys.modules, "faiss", SimpleNamespace())
    options = {"filter": "float32", "n": 200, "d": 20, "k": 5}
    cupy = gpu_cases.answer({"case": "nearest", "options": {"contender": "cupy", **options}})
    assert cupy["not_run"].startswith("cupy cannot be imported: ")
    faiss = gpu_cases.answer({"case": "nearest", "options": {"contender": "faiss", **options}})
    assert faiss == {"not_run": "this faiss has no GPU"}


def test_fused_kernels_that_are_passed_over_are_no_time(on_the_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPSIM_HOPPER", "before")
    with pytest.raises(RuntimeError, match="expected the fused kernels, got the portable ones"):
        gpu_cases.nearest(gpu.FUSED, "float32", 200, 20, 5)
    from repsim.reductions import hopper

    monkeypatch.setattr(hopper, "search_rows", lambda: os.environ["REPSIM_HOPPER"])
    with gpu_cases.route("fused"):
        assert hopper.search_rows() == "1"  # type: ignore[call-arg]
    with (
        pytest.raises(RuntimeError, match="expected the portable kernels, got the fused ones"),
        gpu_cases.route("portable"),
    ):
        assert hopper.search_rows() == "0"  # type: ignore[call-arg]
    assert os.environ["REPSIM_HOPPER"] == "before"


# ---------------------------------------------------------------------------------------------------------------- plan


def test_the_largest_size_of_repsim_comes_before_that_of_its_peers() -> None:
    todo = list(gpu.cases(fused=True))
    assert {case.case for case in todo} == set(gpu_cases.CASES)
    assert len({json.dumps(case.request) for case in todo}) == len(todo)
    order = [
        (case.options["n"], "peer" if not gpu.is_ours(case.request) else "repsim")
        for case in todo if case.case in gpu.TITLES and case.case != "linear_from_disk"
    ]  # fmt: skip
    small, middle, large = gpu.SIZES
    assert list(dict.fromkeys(order)) == [
        (small, "repsim"), (small, "peer"), (large, "repsim"), (middle, "repsim"), (middle, "peer"), (large, "peer"),
    ]  # fmt: skip
    kinds = [case.case for case in todo]
    assert max(m for m, kind in enumerate(kinds) if kind.endswith("_is_right")) < kinds.index("gemm")
    fused = {case.options.get("filter", "bfloat16") for case in todo if gpu.FUSED in case.group}
    assert fused == {"bfloat16", "float32"}
    assert not any(gpu.FUSED in case.group for case in gpu.cases(fused=False))
    for shape, words in ((goal[1], goal[2]) for goal in gpu.GOALS):
        assert any(gpu._shape(c.request) == shape and gpu.is_ours(c.request) and gpu.words_of(c.request) == words
                   for c in todo if c.case in gpu.TITLES)  # fmt: skip


def record(case: str, seconds: float | None, took: float = 0.0, **options: Any) -> dict[str, Any]:
    times = {} if seconds is None else {"seconds": seconds, "calls": 2, "peak_bytes": 5 * 10**9}
    return {"case": case, "options": options, **times, "took": took}


def test_what_would_take_too_long_is_not_run() -> None:
    options = {"contender": "torch", "filter": "float32", "d": 1024, "k": 10}
    smaller = record("nearest", 0.5, took=2.0, n=100_000, **options)
    large = gpu.Case("nearest", {"n": 1_000_000, **options}, 120)
    # 100 times the call, 10 times the second beside the two calls, and the calls that fill 3 s.
    assert gpu.too_long(large, 64, [smaller]) == ""
    assert gpu.too_long(large, 62, [smaller]) == "would take about 63 s, 62 s are left"
    assert gpu.too_long(gpu.Case("nearest", large.options, 60), 100, [smaller]) == (
        "would take about 63 s, a case may take 60 s"
    )
    assert gpu.too_long(large, 1, [record("nearest", 0.5, n=100_000, **{**options, "k": 15})]) == ""  # of another
    assert gpu.too_long(large, 1, [record("nearest", None, n=100_000, **options)]) == ""
    linear = record("linear", 0.5, took=1.0, n=100_000, contender="torch", d=1024)
    assert gpu.too_long(gpu.Case("linear", {**linear["options"], "n": 10**6}), 7, [linear]).startswith(
        "would take about 8"
    )


# -------------------------------------------------------------------------------------------------------------- tables


def cells(text: str, title: str) -> list[dict[str, str]]:
    part = text.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    header, _, *lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_the_page_states_rates_ratios_goals_and_what_went_wrong() -> None:
    at = {"n": 1_000_000, "d": 1024}
    flop = 2e12 * 1024
    records = [
        {**record("cka_is_right", None, contender=PORTABLE), "right": True},
        {**record("nearest_is_right", None, contender=gpu.FUSED, n=5), "right": False, "worst": 1.0},
        record("gemm", 2.0 * 8192**3 / 800e12, precision="medium"),
        {**record("rbf_cka", 3.0, contender=gpu.FUSED, precision="medium", **at), "value": 0.5},
        {**record("rbf_cka", 4.0, contender=PORTABLE, precision="medium", **at), "value": 0.5},
        {**record("rbf_cka", 12.0, contender="torch", precision="medium", **at), "value": 0.25},
        {**record("rbf_cka", None, contender="cupy", precision="highest", **at), "failed": "no |\nmemory"},
        {**record("nearest", 4.5, contender=PORTABLE, filter="bfloat16", k=10, **at), "identical": 1.0},
        {**record("nearest", None, contender="torch", filter="bfloat16", k=10, **at), "not_run": "too long"},
    ]  # fmt: skip
    text = gpu.page({"GPU": "one"}, records, 10, 1.5)
    assert "- GPU: one\n- duration: 1.5 minutes" in text
    assert "1 of 2 right" in text and cells(text, "checks")[0]["what came"] == '{"right": false, "worst": 1.0}'
    assert cells(text, "gemm") == [{"words": "bfloat16", "TFLOP/s": "800"}]
    goals = [(row["measured"], row["by"], row["of GEMM"], row["met"]) for row in cells(text, "goals")]
    assert goals == [
        ("3 s", gpu.FUSED, f"{flop / 3 / 800e12:.0%}", "yes"),
        ("not measured", "–", "–", "–"),  # noqa: RUF001
        ("4.5 s", PORTABLE, f"{flop / 2 / 4.5 / 800e12:.0%}", "no"),
        *[("not measured", "–", "–", "–")] * 2,  # noqa: RUF001
    ]
    rows = {row["contender"]: row for row in cells(text, "RBF CKA: n = 1000000, d = 1024")}
    assert list(rows) == [gpu.FUSED, PORTABLE, "cupy", "torch"]
    assert rows["torch"]["over repsim"] == "4.00" and rows[PORTABLE]["over repsim"] == "–"  # noqa: RUF001
    assert rows["torch"]["difference from the first row"] == "2.5e-01" and rows["torch"]["TFLOP/s"] == "170.7"
    assert rows["torch"]["peak of torch's memory"] == "5.00 GB" and rows["cupy"]["median"] == "no / memory"
    (ours, other) = cells(text, "nearest: n = 1000000, d = 1024, k = 10")
    assert ours["identical"] == "1.000000" and other["median"] == "too long"
    assert text.endswith("6 of 10 right or timed, 2 wrong or failed, 2 not run")


# ------------------------------------------------------------------------------------------------------------- command


def test_without_a_gpu_there_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_main(["gpu"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "bench gpu: no GPU that torch sees\n" and captured.out == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("repsim.reductions.has_gpu_operations", lambda: False)
    assert gpu.missing().startswith("repsim was built without GPU operations")
    monkeypatch.setattr("repsim.reductions.has_gpu_operations", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert gpu.missing() == "a GPU before compute capability 8.0"


def test_cases_that_nothing_names_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "missing", lambda: "")
    monkeypatch.setattr(gpu, "gpu_facts", lambda fused: {})
    with pytest.raises(SystemExit):
        gpu.main(["--only", "warmth"])
    assert (
        "argument --only: expected a part of a case such as 'cka_is_right | contender=repsim" in capsys.readouterr().err
    )


def test_a_run_leaves_records_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The workers of the command, on the CPU."""
    at = {"n": 200, "d": 20}
    todo = [
        gpu.Case("cka_is_right", CHECKS[1][1]),
        *(gpu.Case("linear", {"contender": contender, **at}) for contender in (gpu.LINEAR, "torch")),
        gpu.Case("nearest", {"contender": "nobody", "filter": "float32", "k": 300, **at}),
    ]
    command = [sys.executable, "-m", "bench.gpu_cases", "cpu"]
    assert gpu.measure(todo, {"GPU": "none"}, tmp_path, 60, command) == 0  # what failed is nobody's of repsim
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert lines[0] == {"facts": {"GPU": "none"}} and [one["case"] for one in lines[1:]] == [c.case for c in todo]
    text = (tmp_path / "gpu.md").read_text()
    assert text in capsys.readouterr().out
    _, torchs = cells(text, "linear CKA: n = 200, d = 20")
    assert float(torchs["difference from the first row"]) < 1e-9
    assert float(torchs["over repsim"]) == pytest.approx(lines[3]["seconds"] / lines[2]["seconds"], abs=0.005)
    assert "failed" in lines[-1]

    def stopped(*_: Any, **__: Any) -> Any:
        yield lines[1]
        raise KeyboardInterrupt

    monkeypatch.setattr(isolated, "follow", stopped)
    assert gpu.measure(todo, {}, tmp_path, 60, command) == 130
    assert "1 of 4 right or timed, 0 wrong or failed, 3 not run" in (tmp_path / "gpu.md").read_text()
    monkeypatch.setattr(isolated, "follow", lambda *_, **__: iter([{**lines[1], "right": False}]))
    assert gpu.measure(todo, {}, tmp_path, 60, command) == 1
