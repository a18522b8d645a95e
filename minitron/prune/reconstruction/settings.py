"""Settings of reconstruction. Loads no torch."""

from typing import Literal

from pydantic import Field

from minitron.settings import PositiveFloat, PositiveInt, Settings


class RepairSettings(Settings):
    """How a pruned model's projections are refitted.

    The defaults are what did best on the quickstart's teacher (`benchmarks/repair.py`).
    """

    ridge: PositiveFloat = Field(
        default=1e-2, description="Pull towards the sliced weights, relative to the mean square of the inputs."
    )
    projections: Literal["all", "outputs"] = Field(
        default="all", description="outputs: what writes into the residual stream; all: also what reads it."
    )
    batch_size: PositiveInt = Field(default=8, description="Samples in one forward pass.")
