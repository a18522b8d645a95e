"""Text that a recipe both trains on and evaluates on, unless a split by hash keeps the two apart."""

from pathlib import Path

from minitron.data.locations import is_local, locate
from minitron.errors import DataError
from minitron.recipe.paths import settings_in
from minitron.recipe.recipe import Recipe
from minitron.recipe.source import Source

EVALUATION = "evaluate."


def find_leaks(recipe: Recipe) -> list[str]:
    """A sentence for each source of evaluation whose documents another section may read, too.

    Sources are distinguished by file or name and split; copies of one text in two files are not seen.
    """
    sources = [(place, found) for place, found in settings_in(recipe) if isinstance(found, Source)]
    return [
        f"{judged} must not read the text that {trained} reads, both name {source.path}; set the same held_out above 0 "
        f"and the same field on both, got {_split(source)} and {_split(other)}"
        for judged, source in sources
        if judged.startswith(EVALUATION)
        for trained, other in sources
        if not trained.startswith(EVALUATION)
        if _text(source) & _text(other) and not (source.held_out > 0 and _split(source) == _split(other))
    ]


def _text(source: Source) -> set[tuple[str, str]]:
    if not is_local(source.path):
        return {(source.path, source.split)}
    try:
        location = locate(source.path)
    except DataError:  # what is not there yet is told apart by its name
        return {(str(Path(source.path).resolve()), "")}
    if location.folder is not None:
        return {(str(location.folder.resolve()), source.split)}
    return {(str(path.resolve()), "") for path in location.files}


def _split(source: Source) -> str:
    return f"held_out={source.held_out} of {source.field!r}"
