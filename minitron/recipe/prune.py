"""Recipe section: how a student is cut, compensated and repaired."""

from typing import Annotated

from pydantic import Field, model_validator

from minitron.dtypes import DTYPES, StoredDtype
from minitron.errors import RecipeError
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.recipe.source import Source
from minitron.settings import PositiveFloat, PositiveInt, Settings
from minitron.vocabulary.settings import VocabularySettings


class CalibrationSection(Settings):
    """Text that is run through a teacher, or through teacher and student."""

    data: tuple[Source, ...] = Field(default=(), description="Calibration text; the score section's when left out.")
    samples: PositiveInt = Field(default=128, description="Samples.")
    seq_len: PositiveInt | None = Field(default=None, description="Tokens a sample; the score section's when null.")
    packed: bool = Field(default=True, description="Join documents into full samples; else one padded document each.")
    batch_size: PositiveInt = Field(default=8, description="Samples in one forward pass.")
    layerwise: bool = Field(default=False, description="Hold one block of each model in memory at a time.")


class RepairSection(CalibrationSection, RepairSettings):
    """Refitting the cut model's projections in closed form, before any distillation; beyond the published method.

    The defaults are what did best on the quickstart's teacher (`benchmarks/repair.py`).
    """

    @model_validator(mode="after")
    def _a_batch_to_judge_by(self) -> "RepairSection":
        if self.epochs and self.samples <= self.batch_size:
            raise RecipeError(
                f"samples must be above batch_size where there are epochs, since the last batch judges them; got "
                f"{self.samples} and {self.batch_size}"
            )
        return self


class VocabularySection(VocabularySettings):
    """Cutting the vocabulary to the tokens that a text uses, before anything is scored."""

    data: tuple[Source, ...] = Field(
        default=(), description="Text whose tokens are counted; the score section's when left out."
    )


class BlockWidthsSection(Settings):
    """An FFN width for each block, by what each width costs each block, at the same mean; beyond the published method.

    Whether it pays, and where, is in docs/decisions/0032-block-widths.md.
    """

    data: tuple[Source, ...] = Field(default=(), description="Calibration text; the score section's when left out.")
    samples: PositiveInt = Field(default=64, description="Samples that writers are refitted on.")
    sequences: PositiveInt = Field(default=16, description="Further samples, on which costs are measured.")
    seq_len: PositiveInt | None = Field(default=None, description="Tokens a sample; the score section's when null.")
    batch_size: PositiveInt = Field(default=8, description="Samples in one forward pass.")
    steps: PositiveInt = Field(default=8, description="Widths to choose from: so many equal steps of the teacher's.")
    ridge: PositiveFloat = Field(
        default=1e-2, description="Pull towards the sliced weights, relative to the mean square of the inputs."
    )


class PruneSection(Settings):
    """Pruning."""

    weights_dtype: StoredDtype | None = Field(
        default=None, description="Precision of what is written; each tensor's own when null."
    )
    shard_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=4.0, description="Largest file of weights, GiB."
    )
    drop_mtp: bool = Field(
        default=False, description="Leave out layers that predict further tokens; else they are cut, or refused."
    )
    vocabulary: VocabularySection | None = Field(
        default=None, description="Keep the tokens that a text uses, and no others; null: keep all."
    )
    compensate: CalibrationSection | None = Field(
        default=None, description="Scale norms for the hidden channels that are gone, as measured; null: do not."
    )
    block_widths: BlockWidthsSection | None = Field(
        default=None,
        description="Choose an FFN width for each block, with the shape's as their mean; null: one width for all.",
    )
    repair: RepairSection | None = Field(default=None, description="Refit the cut model's projections; null: do not.")

    @property
    def stored_dtype(self) -> str | None:
        """The safetensors dtype of what is written; None where each tensor keeps its own."""
        return None if self.weights_dtype is None else DTYPES[self.weights_dtype].safetensors
