"""``repsim compare``: words to one call of `repsim.compare`, and its tables to the terminal, a page and a CSV file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repsim.cli.sides import open_side, require_same_inputs
from repsim.compare import compare as compare_layers
from repsim.compare_models import compare_models
from repsim.plan import plan
from repsim.records import RunError
from repsim.request import comparable
from repsim.terminal import DONE, Bar, Parser, count, require_folder


def compare(words: Sequence[str]) -> int:
    """Compare every layer of one side with every layer of the other, or of every model with those of all others.

    Example: ``compare(["a.store", "b.npz", "--measures", "cka", "--csv", "ab.csv"]) == 0``.
    """
    values = _parser().parse(words)
    for path in (values["html"], values["csv"]):
        if path is not None:
            require_folder(path)
    paths = values["models"]
    if len(paths) < 2:
        raise RunError("expected two models or more, got one")
    names = ["a", "b"] if len(paths) == 2 else _names(paths)
    sides = [open_side(path, name) for path, name in zip(paths, names, strict=True)]
    require_same_inputs(sides, values["layers"])
    known = [side for side in sides if side.data]
    for other in known[1:]:
        if other.data != known[0].data:
            print(
                f"note: {known[0].path} and {other.path} are of different data; their rows are paired by sample id",
                file=sys.stderr,
            )
    models = {side.letter: side.rows(values["layers"]) for side in sides}
    asked = ("measures", "k", "metric", "permutations", "seed", "threads", "memory", "resume", "device")
    how: dict[str, Any] = {name: values[name] for name in asked}
    if values["plan"]:
        if values["device"] is not None:
            raise RunError("expected --plan without --device: what is planned is work on the CPU")
        del how["resume"], how["device"]
        if len(models) > 2:
            every = {f"{name} {layer}": rows for name, of in models.items() for layer, rows in of.items()}
            models = {"a": every, "b": every}
        print(plan(*models.values(), **how))
        return DONE
    with Bar("comparing") as bar:
        if len(models) == 2:
            comparison: Any = compare_layers(*models.values(), **how, progress=bar)
        else:
            comparison = compare_models(models, **how, progress=bar)
    print(comparison)
    if values["html"] is not None:
        comparison.to_html(values["html"])
        print(f"page: {values['html'].resolve()}")
    if values["csv"] is not None:
        comparison.to_csv(values["csv"])
        print(f"table: {values['csv'].resolve()}")
    return DONE


def _names(paths: Sequence[Path]) -> list[str]:
    """What models are called: the file without its suffix, or its whole path where two would be called the same."""
    stems = [path.stem for path in paths]
    names = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]
    if len(set(names)) < len(names):
        raise RunError("expected different models, got one of them twice")
    return names


def _parser() -> Parser:
    parser = Parser(
        prog="repsim compare",
        allow_abbrev=False,
        description="Measure every layer of one model against every layer of another; of three models or more, every "
        "two of them and each with itself. A model is a store or a .safetensors, .npz (an array per layer) or .npy "
        "file; rows are the same inputs in the same order.",
    )
    add = parser.add_argument
    add("models", metavar="MODEL", type=Path, nargs="+", help="a store's folder, or a file; two or more")
    add("--measures", nargs="+", default=("cka", "mutual_knn"), metavar="MEASURE",
        help=f"of {', '.join(comparable())} (default: cka mutual_knn)")  # fmt: skip
    add("--layers", nargs="+", metavar="LAYER", help="names or patterns such as hidden.* (default: all)")
    add("--html", type=Path, metavar="FILE", help="write the tables as one page with heatmaps")
    add("--csv", type=Path, metavar="FILE", help="write a line per measure and pair of layers, with chance level and p")
    add(
        "--k",
        type=int,
        default=10,
        metavar="K",
        help="neighbours, of the measures of neighbours (default: %(default)s)",
    )
    add("--metric", default="cosine", help="of neighbours: cosine, inner_product, euclidean (default: %(default)s)")
    add("--permutations", type=int, default=200, metavar="N",
        help="relabellings for chance: for most measures each is another evaluation of every pair; cka, hsic and "
        "mutual_knn know it exactly (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the permutations (default: %(default)s)")
    add("--plan", action="store_true", help="only say what memory and about how much time every measure will need")
    add("--resume", type=Path, metavar="DIR", help="keep every finished grid there, and read those that are there")
    add("--threads", type=count, metavar="N", help="native threads (default: all cores of this process)")
    add("--device", metavar="DEVICE", help="a GPU to work on, such as cuda (default: the CPU)")
    add("--memory", metavar="SIZE", help="budget such as 512MiB or 4GB (default: what is available)")
    return parser
