"""The fused kernels on a Hopper GPU: the checks of `python -m bench.hopper`, one test each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # bench is run from a checkout; it is not installed
from bench import hopper_cases
from repsim.reductions import hopper

CHECKS = [case for case in hopper_cases.cases(1) if not case.kind.startswith("time_")]


@pytest.mark.gpu
@pytest.mark.parametrize("case", CHECKS, ids=hopper_cases.Case.label)
def test_fused_kernels_agree_with_float64(case: hopper_cases.Case) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    if not hopper.available(torch.device("cuda", torch.cuda.current_device())):
        pytest.skip(f"no Hopper GPU, or no library at {hopper.library_path()}")
    result = getattr(hopper_cases, case.kind)(**case.options)
    if "not_run" in result:
        pytest.skip(result["not_run"])
    assert result["right"], result


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPSIM_HOPPER_LIBRARY", "/nowhere/_hopper.so")
    hopper.forget_library()
    with pytest.raises(
        FileNotFoundError, match=r"^\[hopper\] expected the library of the fused operations at /nowhere"
    ):
        hopper._library()


def test_tensors_elsewhere_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"^\[hopper\] expected tensors on a Hopper GPU, got cpu"):
        hopper.split(torch.zeros(3, 4), "medium")
    split = hopper.Split(torch.zeros((1, 3, 4), dtype=torch.bfloat16), None, 4)
    with pytest.raises(ValueError, match="rows that begin at multiples of 16 bytes"):
        split._flat()
