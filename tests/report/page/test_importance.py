"""Cells of an importance map are units, or runs of neighbors that cover a row without gaps."""

import numpy as np
import pytest

from minitron.report.page.importance import MOST_COLUMNS, UnitRow, cells_of


def row_of(units: int, kept: list[int]) -> UnitRow:
    scores = np.random.default_rng(3).random(units) + 0.5
    return UnitRow(label="block 1", scores=scores, kept=np.isin(np.arange(units), kept))


def test_few_units_are_cells_of_their_own() -> None:
    row = row_of(5, [0, 3])
    cells = cells_of(row)
    assert [(cell.units, cell.state) for cell in cells] == [
        ("0", "kept"), ("1", "removed"), ("2", "removed"), ("3", "kept"), ("4", "removed"),
    ]  # fmt: skip
    for cell, score in zip(cells, row.scores, strict=True):
        assert cell.score == pytest.approx(np.log2(score / sorted(row.scores)[2]))


@pytest.mark.parametrize("units", [MOST_COLUMNS + 1, 1000, 4480])
def test_many_units_are_runs_that_hold_each_of_them_once(units: int) -> None:
    row = row_of(units, [*range(0, units, 3)])
    cells = cells_of(row)
    assert len(cells) == MOST_COLUMNS
    assert [unit for cell in cells for unit in range(cell.first, cell.last + 1)] == [*range(units)]
    assert sum(cell.kept for cell in cells) == len(range(0, units, 3))
    assert cells[1].kept == sum(unit % 3 == 0 for unit in range(cells[1].first, cells[1].last + 1))


def test_a_row_without_any_importance_has_finite_colors() -> None:
    row = UnitRow(label="block 1", scores=np.zeros(4), kept=np.ones(4, dtype=bool))
    assert [cell.score for cell in cells_of(row)] == [0.0] * 4
