"""Sources of text, shared by the recipe's sections."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from minitron.data.documents import is_text_file
from minitron.recipe.paths import TextPath, settings_in
from minitron.settings import PositiveInt, Settings


class Source(Settings):
    """One source of text."""

    path: TextPath = Field(description="A .txt, .jsonl or .parquet file beside the recipe, or the name of a dataset.")
    weight: float = Field(default=1.0, gt=0, description="Share of the blend, relative to the other sources'.")
    field: str = Field(default="text", description="Column that holds the text.")
    split: str = Field(default="train", description="Split of a named dataset.")
    excerpt_chars: PositiveInt | None = Field(
        default=None, description="Cut documents into excerpts of so many characters before shuffling; whole if unset."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Share of the documents, picked by the hash of their text, that only evaluation reads."
    )


def sources_in(settings: Settings) -> Iterator[Source]:
    """Every source of text in settings, in the order of their fields."""
    yield from (found for _, found in settings_in(settings) if isinstance(found, Source))


def missing_files(recipe: Settings) -> Iterator[str]:
    """Text files that a recipe names and that are not there, each once."""
    paths = [source.path for source in sources_in(recipe) if is_text_file(source.path)]
    yield from (path for path in dict.fromkeys(paths) if not Path(path).is_file())
