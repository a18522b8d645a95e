"""Units of a run's scores, row by row, and which of them the student has."""

import numpy as np
import numpy.typing as npt

from minitron.importance.rows import SORTED_AXIS, row_label, score_rows
from minitron.models.keep import Keep
from minitron.pipeline.run_report.models import RunModels
from minitron.report.page.importance import UnitRow


def unit_rows(models: RunModels) -> dict[str, list[UnitRow]]:
    """Axis -> a row for each block; empty without scores."""
    if models.scores is None:
        return {}
    return {
        axis: [
            UnitRow(label=row_label(layer), scores=scores, kept=kept_flags(models.keep, axis, layer, len(scores)))
            for layer, scores in rows.items()
        ]
        for axis, rows in score_rows(models.scores).items()
    }


def kept_flags(keep: Keep | None, axis: str, layer: int | None, units: int) -> npt.NDArray[np.bool_]:
    """[units] whether each unit of a row stays; all do where nothing has been chosen."""
    everything = np.ones(units, dtype=bool)
    if keep is None:
        return everything
    if layer is not None and layer not in keep.layers:
        return ~everything
    kept = keep.indices.get((axis, layer))
    if kept is None:
        return everything
    # The row's units are sorted, best first, as each expert keeps its own best.
    places = np.arange(kept.shape[-1]) if axis == SORTED_AXIS else kept
    return np.isin(np.arange(units), places)
