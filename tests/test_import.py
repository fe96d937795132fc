"""What importing repsim costs, and which module may import which."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "repsim"
HEAVY = ("torch", "transformers", "sklearn", "matplotlib", "pandas", "pyarrow")

# Built from csrc/; the second one only where there is CUDA.
NATIVE = ("_core", "_cuda")

# What each room may import. A room imports itself, and nothing that is not named here.
FLOOR = {
    "arguments": set(),
    "arrays": set(),
    "layout": set(),
    "native": set(),
    "whole_files": set(),
    "interchange": {"layout", "whole_files"},
    "store": {"arrays", "layout", "interchange", "whole_files"},
}
LIBRARY = {
    "kernels": {"arguments"},
    "blocks": {"arguments", "arrays", "store"},
    "reductions": {"arguments", "arrays", "store", "kernels", "blocks", *NATIVE},
    "calibration": {"arguments", "arrays", "store", "kernels", "blocks", "reductions"},
    "measures": {"arguments", "arrays", "store", "kernels", "blocks", "reductions", "calibration", "whole_files"},
    "streaming": {"arguments", "arrays", "kernels", "reductions", "calibration", "measures"},
    "comparison_page": {"measures"},
    "comparison": {"measures", "comparison_page", "whole_files"},
    "model_layers": {"arrays", "reductions", "store"},
    "request": {"arrays", "kernels", "measures"},
    "saved_grids": {"arrays", "measures", "reductions", "request", "whole_files"},
    "grids": {"arguments", "arrays", "kernels", "measures", "request", "saved_grids"},
    "plan": {"arguments", "arrays", "kernels", "reductions", "measures", "model_layers", "request"},
    "compare": {"arguments", "comparison", "grids", "model_layers", "plan", "reductions", "request", "saved_grids"},
    "compare_models": {
        "arguments",
        "comparison",
        "comparison_page",
        "grids",
        "measures",
        "model_layers",
        "plan",
        "reductions",
        "request",
        "saved_grids",
    },
}
STUDY: dict[str, set[str]] = {
    "data": set(),
    "overlap": set(),
    "training": {"data", "overlap", "whole_files"},
    "attacks": {"data", "overlap", "training"},
    "statistics": set(),
    "records": {"whole_files"},
    "findings": {"statistics"},
    "figures": {"statistics", "findings"},
    "jailbreak_figures": {"statistics", "findings", "figures"},
    "theme": set(),
    "language_figures": {"statistics", "findings", "figures"},
    "report": {"records", "statistics", "findings", "figures", "jailbreak_figures", "language_figures", "theme"},
}
BETWEEN: dict[str, set[str]] = {
    "activations": {"arrays", "interchange", "store"},
    "extraction": {"activations", "interchange", "layout", "store", "records", "whole_files"},
    "terminal": {"records"},
}
ROOMS: dict[str, set[str]] = {
    **FLOOR,
    **LIBRARY,
    **STUDY,
    **BETWEEN,
    "": {*FLOOR, *LIBRARY},  # repsim/__init__.py: the public names of the library
    "cli": {"", *FLOOR, *LIBRARY, *BETWEEN, "records"},
    "__main__": {"cli"},
}
JOIN_EVERYTHING = ("experiments", "gallery")


# ---------------------------------------------------------------------------------------------- cost


def fresh(code: str) -> str:
    """The output of `code` in a new interpreter that finds the same repsim."""
    spec = find_spec("repsim")
    assert spec is not None and spec.origin is not None
    paths = f"import sys; sys.path.insert(0, {str(Path(spec.origin).parents[1])!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", paths + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    loaded = json.loads(fresh("import json, repsim; print(json.dumps([m for m in sys.modules if '.' not in m]))"))
    assert "repsim" in loaded
    assert not set(HEAVY) & set(loaded)


def test_measures_load_nothing_heavy() -> None:
    code = (
        "import json, numpy as np, repsim\n"
        "x = np.random.default_rng(0).standard_normal((30, 4))\n"
        "repsim.cka(x, x, kernel='rbf'), repsim.mutual_knn(x, x, k=3), repsim.cknna(x, x, k=3)\n"
        "print(json.dumps([m for m in sys.modules if '.' not in m]))"
    )
    assert not set(HEAVY) & set(json.loads(fresh(code)))


def test_import_is_fast() -> None:
    """Processor time, which a busy machine stretches little; the least of seven, with the files in memory."""
    code = "import time, numpy\nt = time.process_time()\nimport repsim\nprint(time.process_time() - t)"
    assert min(float(fresh(code)) for _ in range(7)) < 0.3


# ---------------------------------------------------------------------------------------------- layers


def imported(path: Path, module: str, source: str | None = None) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in the file, at any depth, and of import_module with a constant."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if source is None else source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = package.split(".")
                start = ".".join([*parents[: len(parents) - node.level + 1], *([start] if start else [])])
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                target = node.args[0].value
                yield node.lineno, f"repsim{target}" if target.startswith(".") else target


def room(module: str) -> str:
    """repsim.measures.cka -> measures; repsim -> ''; repsim.cka (a public name) -> ''."""
    parts = module.split(".")
    if len(parts) == 1:
        return ""
    known = {*ROOMS, *JOIN_EVERYTHING, *NATIVE, "__main__"}
    exists = (SOURCES / parts[1]).is_dir() or (SOURCES / f"{parts[1]}.py").is_file()
    return parts[1] if parts[1] in known or exists else ""


def wrong_imports(module: str, path: Path, source: str | None = None) -> list[str]:
    here = module.split(".")[1] if "." in module else ""
    if here in JOIN_EVERYTHING:
        may: set[str] | None = None
    elif here in ROOMS:
        may = ROOMS[here] | {here}
    else:
        return [f"{module} has no place in the order of imports"]
    wrong = []
    for line, target in imported(path, module, source):
        if target.split(".")[0] != "repsim":
            continue
        there = room(target)
        if (may is not None and there not in may) or (there in NATIVE and here != "reductions"):
            wrong.append(f"{module}:{line} imports {target}")
    return wrong


def modules() -> list[tuple[str, Path]]:
    out = []
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        out.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return out


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_imports_go_one_way(module: str, path: Path) -> None:
    assert wrong_imports(module, path) == []


def test_the_wings_do_not_touch() -> None:
    for name in STUDY:
        assert not ROOMS[name] & {*LIBRARY, *FLOOR} - {"whole_files"}  # how anything is written
    for name in LIBRARY:
        assert not ROOMS[name] & {*STUDY, *BETWEEN}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("repsim.arrays", "from repsim.store import Store", id="upwards"),
        pytest.param("repsim.interchange", "from repsim.store import Store", id="interchange-before-store"),
        pytest.param("repsim.measures.cka", "def f():\n    from repsim import records", id="inside-a-function"),
        pytest.param("repsim.measures.cka", "from ..compare import compare", id="relative"),
        pytest.param("repsim.measures.cka", "from repsim import _core", id="native-module"),
        pytest.param("repsim.measures.cka", "import repsim._core", id="native-module-by-name"),
        pytest.param("repsim.measures.cka", "from repsim import _cuda", id="gpu-module"),
        pytest.param("repsim.experiments.sweep", "from repsim._core import nearest", id="native-module-from-a-study"),
        pytest.param("repsim.training.vision", "import repsim.measures", id="study-to-library"),
        pytest.param("repsim.compare", "import importlib\nimportlib.import_module('repsim.report')", id="by-string"),
        pytest.param("repsim.statistics", "from repsim.records import RunDirectory", id="statistics-imports-nothing"),
        pytest.param("repsim.records", "from repsim import report", id="records-before-report"),
        pytest.param("repsim.attacks.gradient", "from repsim import cka", id="public-name-from-a-study"),
        pytest.param("repsim.store", "from repsim.experiments import sweep", id="nobody-imports-experiments"),
        pytest.param("repsim.compare", "from repsim.cli import main", id="nobody-imports-the-command"),
        pytest.param("repsim.extraction.layers", "import repsim.measures", id="extraction-to-library"),
        pytest.param("repsim.cli.compare", "from repsim.experiments import load", id="command-to-studies"),
        pytest.param("repsim.report", "from repsim.gallery import traps", id="nobody-imports-the-gallery"),
        pytest.param("repsim.helpers", "", id="a-module-without-a-place"),
    ],
)
def test_an_import_the_wrong_way_is_seen(module: str, source: str) -> None:
    assert wrong_imports(module, Path("module.py"), source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("repsim.measures.cka", "from repsim.reductions import kernel_sums\nimport numpy", id="downwards"),
        pytest.param("repsim.measures.cka", "from .hsic import hsic\nfrom ..arrays import rows", id="relative"),
        pytest.param("repsim.reductions", "from repsim import _core", id="native-module"),
        pytest.param("repsim.experiments.sweep", "from repsim import cka, records, data", id="experiments"),
        pytest.param("repsim.gallery.page", "from repsim import cka, data, report, training", id="gallery"),
        pytest.param("repsim.report", "from repsim.records import RunDirectory", id="report-reads-records"),
        pytest.param("repsim.activations", "from repsim.store import Store\nimport torch", id="activations"),
        pytest.param("repsim.cli.look", "import repsim\nfrom repsim.terminal import Parser", id="command"),
    ],
)
def test_an_import_the_right_way_passes(module: str, source: str) -> None:
    assert wrong_imports(module, Path("module.py"), source) == []
