"""Recipe section: smaller students that are trained together with the one that was cut."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from minitron.errors import RecipeError
from minitron.settings import PositiveFloat, PositiveInt, Settings

# What the tables call the other models of a run.
TAKEN_NAMES = ("teacher", "pruned", "distilled")
DEPTH = "num_hidden_layers"


class StudentSection(Settings):
    """A smaller student, nested in the one that was cut: its first units along every axis, and some of its blocks."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="What `minitron extract` and the tables call it.")
    shape: Mapping[str, PositiveInt] = Field(
        min_length=1,
        description="Sizes that are smaller than those of the student that was cut, as Hugging Face spells them, and "
        "num_hidden_layers.",
    )
    share: PositiveInt = Field(
        default=1, description="Parts of the text that train it; the student that was cut has one."
    )
    weight: PositiveFloat = Field(
        default=1.0,
        description="Weight of its loss; that of the student that was cut is 1. Smaller students have larger losses.",
    )

    @model_validator(mode="after")
    def _name_is_free(self) -> "StudentSection":
        if self.name in TAKEN_NAMES:
            raise RecipeError(f"a student's name must be none of {', '.join(TAKEN_NAMES)}, got {self.name}")
        return self

    @property
    def widths(self) -> dict[str, int]:
        """The sizes but for the number of blocks."""
        return {name: size for name, size in self.shape.items() if name != DEPTH}

    @property
    def depth(self) -> int | None:
        """The number of blocks; None where all stay."""
        return self.shape.get(DEPTH)
