"""Settings of a cut of the vocabulary: how many tokens are kept. Loads no torch."""

from pydantic import Field, model_validator

from minitron.errors import RecipeError
from minitron.settings import Fraction, PositiveInt, Settings

# Tensor-parallel readers and their kernels split and pad vocabularies by this many rows.
ROWS = 64


class VocabularySettings(Settings):
    """How much of a vocabulary is kept: one of `size`, `coverage` and `min_count`."""

    size: PositiveInt | None = Field(default=None, description="Tokens that are kept, a multiple of `multiple_of`.")
    coverage: Fraction | None = Field(
        default=None, description="Share of the text's tokens that are kept ones; the most frequent go first."
    )
    min_count: PositiveInt | None = Field(default=None, description="Keep what occurs at least so often in the text.")
    multiple_of: PositiveInt = Field(
        default=ROWS,
        description="The kept tokens' number is a multiple of this; vLLM splits vocabularies by 64. Room that is left "
        "is filled with the next most frequent ones.",
    )
    tokens: PositiveInt | None = Field(
        default=None, description="Tokens of the text that are counted, shuffled; all of it when null."
    )

    @model_validator(mode="after")
    def _one_measure(self) -> "VocabularySettings":
        given = [name for name in ("size", "coverage", "min_count") if getattr(self, name) is not None]
        if len(given) != 1:
            raise RecipeError(f"one of size, coverage and min_count must be given, got {' and '.join(given) or 'none'}")
        if self.size is not None and self.size % self.multiple_of:
            below, above = (self.size // self.multiple_of + step for step in (0, 1))
            nearest = " or ".join(str(each * self.multiple_of) for each in (below, above) if each)
            raise RecipeError(f"size must be a multiple of multiple_of={self.multiple_of}, nearest: {nearest}")
        return self
