"""What a comparison of layers gives: a grid per measure, as text, rows, tables of other libraries, page and figure."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .comparison_page import page
from .measures.similarity import Grid
from .whole_files import whole_file

_SHOWN = 12  # layers of a side that a printed table has room for


class LongTable:
    """Rows of plain values, and the same for other libraries."""

    def rows(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def columns(self) -> dict[str, list[Any]]:
        """The rows by column; None where a measure has no such option, text where its values are of several types."""
        rows = self.rows()
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
        for name, values in columns.items():
            kinds = {type(value) for value in values if value is not None}
            if not (len(kinds) == 1 or kinds <= {int, float}) or not kinds <= {str, int, float, bool}:
                columns[name] = [None if value is None else str(value) for value in values]
        return columns

    def to_arrow(self) -> Any:
        """The rows as a ``pyarrow.Table``, which polars, DuckDB and pandas read: ``polars.from_arrow(table)``."""
        import pyarrow

        return pyarrow.table(self.columns())

    def to_pandas(self) -> Any:
        """The rows as a ``pandas.DataFrame``. Raises: ImportError: pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("[to_pandas] expected the package pandas, got none; pip install pandas") from error
        return pandas.DataFrame(self.columns())

    def to_csv(self, path: str | Path) -> None:
        """Write the `rows` as CSV; an option that a measure does not have is an empty field."""
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(path), text.getvalue())


@dataclass(frozen=True, eq=False)
class Comparison(LongTable):
    """Every measure between every layer of a and every layer of b.

    Example::

        table = repsim.compare(a, b, measures=["cka", "mutual_knn"])
        table                                           # one table of values per measure
        table["cka"].values, table["cka"].z             # [layers of a, layers of b] each
        table.to_pandas(), polars.from_arrow(table.to_arrow())
    """

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    grids: dict[str, Grid]
    device: str = "cpu"  # or the GPU that all of it was worked out on

    def __getitem__(self, measure: str) -> Grid:
        if measure not in self.grids:
            raise ValueError(f"[Comparison] expected measure {' or '.join(map(repr, self.grids))}, got {measure!r}")
        return self.grids[measure]

    def __iter__(self) -> Iterator[str]:
        return iter(self.grids)

    def __repr__(self) -> str:
        return "\n\n".join(self._as_text(measure, grid) for measure, grid in self.grids.items())

    def _repr_html_(self) -> str:
        return "\n".join(self._as_html(measure, grid) for measure, grid in self.grids.items())

    def _as_text(self, measure: str, grid: Grid) -> str:
        table = [["a \\ b", *(name for _, name in _shown(self.layers_b))]]
        for i, layer in _shown(self.layers_a):
            table.append([layer, *(_number(grid, i, j) for j, _ in _shown(self.layers_b))])
        first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
        lines = [
            "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
            for row in table
        ]
        return "\n".join([title(measure, grid), *lines])

    def _as_html(self, measure: str, grid: Grid) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for _, name in _shown(self.layers_b))
        lines = [f"<tr><th>a \\ b</th>{head}</tr>"]
        for i, layer in _shown(self.layers_a):
            cells = "".join(f"<td>{_number(grid, i, j)}</td>" for j, _ in _shown(self.layers_b))
            lines.append(f"<tr><th>{html.escape(layer)}</th>{cells}</tr>")
        return f"<table><caption>{html.escape(title(measure, grid))}</caption>{''.join(lines)}</table>"

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per measure and pair of layers, ready for pandas.DataFrame or pyarrow."""
        return [
            {
                "measure": measure,
                "layer_a": layer_a,
                "layer_b": layer_b,
                **grid.at(i, j, measure).to_dict(),
                "device": self.device,
            }
            for measure, grid in self.grids.items()
            for i, layer_a in enumerate(self.layers_a)
            for j, layer_b in enumerate(self.layers_b)
        ]

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page: per measure a table of all layers with coloured cells, light or dark."""
        titles = {measure: title(measure, grid) for measure, grid in self.grids.items()}
        write_text(Path(path), page(self.layers_a, self.layers_b, self.grids, titles))

    def best(self) -> list[dict[str, Any]]:
        """Of every measure the pair of layers that is most alike, and p for the best of all pairs by chance.

        See :meth:`repsim.measures.similarity.Grid.best`: {"measure", "layer_a", "layer_b", "value", "p", "p_from"}.
        """
        found = []
        for measure, grid in self.grids.items():
            i, j, p, p_from = grid.best()
            pair = {"layer_a": self.layers_a[i], "layer_b": self.layers_b[j]}
            found.append({"measure": measure, **pair, "value": float(grid.values[i, j]), "p": p, "p_from": p_from})
        return found

    def heatmap(self, measure: str | None = None) -> Any:
        """The grid of one measure, the first where none is named, as a matplotlib figure."""
        measure = next(iter(self.grids)) if measure is None else measure
        return figure_of(measure, self[measure].values, self[measure].kind, self.layers_a, self.layers_b)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _shown(layers: Sequence[str]) -> list[tuple[int | None, str]]:
    """Positions and names of the layers to print; where there are too many, a gap without a position in the middle."""
    every: list[tuple[int | None, str]] = list(enumerate(layers))
    if len(every) <= _SHOWN:
        return every
    return [*every[: _SHOWN // 2], (None, "..."), *every[-(_SHOWN // 2) :]]


def _number(grid: Grid, i: int | None, j: int | None) -> str:
    return "..." if i is None or j is None else f"{grid.values[i, j]:.3f}"


def title(measure: str, grid: Grid) -> str:
    options = (f"{name}={value}" for name, value in grid.options.items() if value is not None)
    return f"{measure}  ({', '.join([f'n={grid.n}', *options, grid.precision])})"


def figure_of(
    measure: str,
    values: np.ndarray,
    kind: str,
    layers_a: Sequence[str],
    layers_b: Sequence[str],
    *,
    labels: tuple[str, str] = ("a", "b"),
) -> Any:
    """A matplotlib figure of values [layers of a, layers of b], coloured from 0, or below, to 1 or the farthest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 0.7 * len(layers_b), 1.2 + 0.55 * len(layers_a)), layout="constrained")
    axes = figure.add_subplot()
    most = float(np.nanmax(values))
    if kind == "similarity":
        most = max(most, 1.0)  # hsic has no bound
    image = axes.imshow(values, vmin=min(0.0, float(np.nanmin(values))), vmax=most, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(layers_b)), layers_b, rotation=45, ha="right")
    axes.set_yticks(range(len(layers_a)), layers_a)
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    figure.colorbar(image, ax=axes, label=measure)
    return figure
