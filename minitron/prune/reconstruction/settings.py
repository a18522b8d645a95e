"""Settings of reconstruction. Loads no torch."""

from typing import Literal

from pydantic import Field

from minitron.settings import NonNegativeInt, PositiveFloat, PositiveInt, Settings


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
    epochs: NonNegativeInt = Field(
        default=0,
        description="Passes over the text in which all of a block's parameters are trained towards the teacher's "
        "stream after the closed form; the best on held-out batches is kept. 0: the closed form alone.",
    )
    rate: PositiveFloat = Field(
        default=0.03, description="Peak step of such a pass, relative to a parameter's root mean square (Adam)."
    )
    batch_size: PositiveInt = Field(default=8, description="Samples in one forward pass.")
