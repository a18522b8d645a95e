"""Sources of text, shared by the recipe's sections."""

from typing import Annotated

from pydantic import Field

from minitron.settings import PositiveInt, Settings


class Source(Settings):
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
