"""``repsim compare``: words to one call of `repsim.compare`, and its tables to the terminal, a page and a CSV file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from repsim.cli.sides import open_side, require_same_inputs
from repsim.compare import compare as compare_layers
from repsim.request import comparable
from repsim.terminal import DONE, Bar, Parser, count, require_folder


def compare(words: Sequence[str]) -> int:
    """Compare every layer of one side with every layer of the other.

    Example: ``compare(["a.store", "b.npz", "--measures", "cka", "--csv", "ab.csv"]) == 0``.
    """
    values = _parser().parse(words)
    for path in (values["html"], values["csv"]):
        if path is not None:
            require_folder(path)
    layers = values["layers"]
    a, b = open_side(values["a"], "a"), open_side(values["b"], "b")
    require_same_inputs(a, b, layers)
    if a.data and b.data and a.data != b.data:
        print(f"note: {a.path} and {b.path} are of different data; their rows are paired by sample id", file=sys.stderr)
    with Bar("comparing") as bar:
        comparison = compare_layers(
            a.rows(layers),
            b.rows(layers),
            measures=values["measures"],
            k=values["k"],
            metric=values["metric"],
            permutations=values["permutations"],
            seed=values["seed"],
            threads=values["threads"],
            memory=values["memory"],
            progress=bar,
        )
    print(comparison)
    if values["html"] is not None:
        comparison.to_html(values["html"])
        print(f"page: {values['html'].resolve()}")
    if values["csv"] is not None:
        comparison.to_csv(values["csv"])
        print(f"table: {values['csv'].resolve()}")
    return DONE


def _parser() -> Parser:
    parser = Parser(
        prog="repsim compare",
        allow_abbrev=False,
        description="Measure every layer of A against every layer of B. A and B are stores, .safetensors, .npz (an "
        "array per layer) or .npy files, rows the same inputs in the same order.",
    )
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="a store's folder, or a file")
    add("b", metavar="B", type=Path, help="the same of the other model")
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
    add("--permutations", type=int, default=200, metavar="N", help="for chance levels (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the permutations (default: %(default)s)")
    add("--threads", type=count, metavar="N", help="native threads (default: all cores of this process)")
    add("--memory", metavar="SIZE", help="budget such as 512MiB or 4GB (default: each measure's own)")
    return parser
