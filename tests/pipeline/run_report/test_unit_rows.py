"""Kept units of a row are those that the plan names; of blocks that go none is."""

import numpy as np
import pytest

from minitron.models.keep import Keep
from minitron.pipeline.run_report.unit_rows import kept_flags

KEEP = Keep(
    layers=(0, 2),
    indices={
        ("hidden_size", None): np.array([1, 4]),
        ("intermediate_size", 2): np.array([0, 3]),
        # Two experts that keep two neurons each; a row shows their scores sorted, best first.
        ("moe_intermediate_size", 0): np.array([[3, 4], [0, 2]]),
    },
)


@pytest.mark.parametrize(
    ("axis", "layer", "units", "kept"),
    [
        ("hidden_size", None, 5, [1, 4]),
        ("intermediate_size", 2, 4, [0, 3]),
        ("intermediate_size", 1, 4, []),  # a block that goes
        ("mamba_num_heads", 0, 3, [0, 1, 2]),  # an axis that is not cut
        ("moe_intermediate_size", 0, 5, [0, 1]),
    ],
)
def test_units_that_the_plan_names_are_kept(axis: str, layer: int | None, units: int, kept: list[int]) -> None:
    assert np.flatnonzero(kept_flags(KEEP, axis, layer, units)).tolist() == kept


def test_all_are_kept_where_nothing_has_been_chosen() -> None:
    assert kept_flags(None, "hidden_size", None, 3).tolist() == [True, True, True]
