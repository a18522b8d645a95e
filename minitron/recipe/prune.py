"""What is done with a student once it is cut."""

from typing import Annotated, Literal

from pydantic import Field

from minitron.recipe.section import PositiveInt, Section, Source


class RepairSection(Section):
    """Refitting the cut model's projections in closed form, before any distillation; beyond the published method.

    The defaults are what did best on the quickstart's teacher (`benchmarks/repair.py`).
    """

    data: tuple[Source, ...] = Field(default=(), description="Calibration text; the score section's when left out.")
    samples: PositiveInt = Field(default=128, description="Samples.")
    seq_len: PositiveInt | None = Field(default=None, description="Tokens a sample; the score section's when null.")
    packed: bool = Field(default=True, description="Join documents into full samples; else one padded document each.")
    ridge: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1e-2, description="Pull towards the sliced weights, relative to the mean square of the inputs."
    )
    projections: Literal["all", "outputs"] = Field(
        default="all", description="outputs: what writes into the residual stream; all: also what reads it."
    )
    batch_size: PositiveInt = Field(default=8, description="Samples in one forward pass.")
    layerwise: bool = Field(default=False, description="Hold one block of teacher and student in memory at a time.")


class PruneSection(Section):
    """Pruning."""

    repair: RepairSection | None = Field(default=None, description="Refit the cut model's projections; null: do not.")
