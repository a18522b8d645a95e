"""Importance maps: the score of every unit, block by block, and which units were kept."""

# B bins of a row

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minitron.artifacts.json_files import JsonValue
from minitron.report.page.charts import chart, height_of_rows, tooltip
from minitron.report.page.parts import Figure, Note, Part, Section, Spec, Table, missing
from minitron.report.score_figures import AXIS_TITLES

MOST_COLUMNS = 64  # units of a row that are shown one by one; more are gathered in as many runs
SMALLEST = 1e-12  # of a score or a median, under a logarithm
ALL, SOME, NONE = "kept", "some kept", "removed"
INDEX: JsonValue = {"tickMinStep": 1, "format": "d"}
HEIGHTS = {ALL: 1.0, SOME: 0.6, NONE: 0.25}  # of a row, that a cell fills

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """The units of one axis in one block.

    Attributes:
        label: What the row is called.
        scores: [units] scores.
        kept: [units] whether each stays; all False where the block is removed.
    """

    label: str
    scores: Values
    kept: Flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A unit, or a run of neighbors.

    Attributes:
        first: Its first unit.
        last: Its last unit.
        score: log2 of its mean score over the median of its row.
        kept: Units of it that stay.
    """

    first: int
    last: int
    score: float
    kept: int

    @property
    def units(self) -> str:
        """Which units it is of."""
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"

    @property
    def state(self) -> str:
        """What became of it."""
        return ALL if self.kept == self.last - self.first + 1 else SOME if self.kept else NONE


def cells_of(row: UnitRow) -> tuple[Cell, ...]:
    """A row as at most `MOST_COLUMNS` cells."""
    median = max(float(np.median(row.scores)), SMALLEST)
    bounds_B = np.linspace(0, len(row.scores), min(len(row.scores), MOST_COLUMNS) + 1).round().astype(int)
    return tuple(
        Cell(
            first=start,
            last=stop - 1,
            score=float(np.log2(max(float(row.scores[start:stop].mean()), SMALLEST) / median)),
            kept=int(row.kept[start:stop].sum()),
        )
        for start, stop in itertools.pairwise(bounds_B.tolist())
    )


def importance_section(maps: Mapping[str, Sequence[UnitRow]], *, taken_from: str, why_not: str) -> Section:
    """A map for each axis that has scores.

    Args:
        maps: Axis -> its rows.
        taken_from: What the kept units are known from; empty where no shape has been chosen.
        why_not: What is missing, where there are no maps.
    """
    if not maps:
        return Section(name="importance", title="Importance", parts=(missing(why_not),))
    source = f", by {taken_from}" if taken_from else ". No shape has been chosen yet, so all units are shown as kept"
    note = Note(
        text=f"Color is log2 of a score over the median of its row. A cell that fills its row is {ALL}, a thin one is "
        f"{NONE}, one in between is a run of units of which {SOME.replace('kept', 'are kept')}{source}."
    )
    parts: list[Part] = [note, *(_figure(axis, rows) for axis, rows in maps.items())]
    return Section(name="importance", title="Importance, and what was kept", parts=tuple(parts))


def _figure(axis: str, rows: Sequence[UnitRow]) -> Figure:
    cells = {row.label: cells_of(row) for row in rows}
    kept, units = (sum(int(count) for count in counts) for counts in zip(*map(_counts, rows), strict=True))
    return Figure(
        name=f"importance-{axis.replace('_', '-')}",
        caption=f"Importance of {AXIS_TITLES[axis]} ({axis}): {kept:,} of {units:,} are kept",
        spec=_spec(cells),
        table=_table(rows, cells),
    )


def _counts(row: UnitRow) -> tuple[int, int]:
    return int(row.kept.sum()), len(row.kept)


def _spec(cells: Mapping[str, Sequence[Cell]]) -> Spec:
    values: list[dict[str, JsonValue]] = [
        {
            "row": label,
            "x": cell.first,
            "x2": cell.last + 1,
            "units": cell.units,
            "score": round(cell.score, 4),
            "state": cell.state,
        }
        for label, found in cells.items()
        for cell in found
    ]
    labels: list[JsonValue] = [*cells]
    limit = max(0.5, float(np.quantile([abs(float(str(value["score"]))) for value in values], 0.95)))
    colors: dict[str, JsonValue] = {"scheme": "redblue", "reverse": True, "domain": [-limit, limit], "clamp": True}
    layers: list[dict[str, JsonValue]] = [
        {
            "transform": [{"filter": {"field": "state", "equal": state}}],
            "mark": {"type": "rect", "height": {"band": height}},
            "encoding": {
                "y": {"field": "row", "type": "nominal", "sort": labels, "title": None},
                "x": {"field": "x", "type": "quantitative", "title": "unit", "scale": {"nice": False}, "axis": INDEX},
                "x2": {"field": "x2"},
                "color": {
                    "field": "score",
                    "type": "quantitative",
                    "scale": colors,
                    "title": "log2(score / row's median)",
                },
                "tooltip": tooltip(
                    ("row", "row", ""), ("units", "unit", ""), ("score", "log2", "+.2f"), ("state", "fate", "")
                ),
            },
        }
        for state, height in HEIGHTS.items()
        if any(value["state"] == state for value in values)
    ]
    return chart(layers, values=values, height=height_of_rows(len(cells)))


def _table(rows: Sequence[UnitRow], cells: Mapping[str, Sequence[Cell]]) -> Table:
    """A line a row: counts, then log2 of every cell, in brackets where not all of it is kept."""
    most = max(len(found) for found in cells.values())
    lines = []
    for row in rows:
        kept, units = _counts(row)
        shown = [f"{cell.score:+.2f}" if cell.state == ALL else f"({cell.score:+.2f})" for cell in cells[row.label]]
        lines.append((row.label, str(kept), str(units), *shown, *[""] * (most - len(shown))))
    return Table(
        columns=("row", "kept", "units", *(f"cell {place}" for place in range(1, most + 1))), rows=tuple(lines)
    )
