"""Sources of text, shared by the recipe's sections."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from minitron.data.locations import is_local, locate
from minitron.data.records import LossTokens, RecordKind
from minitron.errors import DataError
from minitron.recipe.paths import OptionalPath, TextPath, settings_in
from minitron.settings import PositiveInt, Settings


class Source(Settings):
    """One source of text."""

    path: TextPath = Field(
        description="Text beside the recipe: a .txt, .json, .jsonl, .csv (also .gz or .zst) or .parquet file, a "
        "pattern of such files, a folder of shards or by save_to_disk; or a dataset's owner/name on the hub."
    )
    weight: float = Field(default=1.0, gt=0, description="Share of the blend, relative to the other sources'.")
    field: str = Field(default="text", description="Field that holds the text, or the messages where it is not `text`.")
    split: str = Field(default="train", description="Split of a dataset.")
    kind: RecordKind | None = Field(
        default=None, description="What the records are; found from the fields of the first one when null."
    )
    loss: LossTokens = Field(
        default=None,
        description="What a loss counts in training and evaluation; when null answers of conversations, all of text.",
    )
    chat_template: OptionalPath = Field(
        default=None, description="File of a Jinja chat template; the tokenizer's own when null."
    )
    excerpt_chars: PositiveInt | None = Field(
        default=None, description="Cut documents into excerpts of so many characters before shuffling; whole if unset."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0, description="Share of the documents, picked by the hash of their text, that only evaluation reads."
    )


def sources_in(settings: Settings) -> Iterator[Source]:
    """Every source of text in settings, in the order of their fields."""
    yield from (found for _, found in settings_in(settings) if isinstance(found, Source))


def faulty_text(recipe: Settings) -> Iterator[tuple[Source, str]]:
    """Each source of a recipe that is not there or could not be read, and a sentence that says why, each once."""
    found: dict[str, Source] = {source.path: source for source in sources_in(recipe)}
    for path, source in found.items():
        if is_local(path):
            try:
                locate(path)
            except DataError as error:
                yield source, str(error)
