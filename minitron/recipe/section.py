"""What all sections of a recipe are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Base of the recipe's sections: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """One source of text."""

    path: str = Field(description="A .txt, .jsonl or .parquet file beside the recipe, or the name of a dataset.")
    weight: float = Field(default=1.0, gt=0, description="Share of the blend, relative to the other sources'.")
    field: str = Field(default="text", description="Column that holds the text.")
    split: str = Field(default="train", description="Split of a named dataset.")
    excerpt_chars: PositiveInt | None = Field(
        default=None, description="Cut documents into excerpts of so many characters before shuffling; whole if unset."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Share of the documents, picked by the hash of their text, that only evaluation reads."
    )
