"""Text that a recipe both trains on and evaluates on, unless a split by hash keeps the two apart."""

from collections.abc import Iterator
from pathlib import Path

from minitron.data.documents import is_text_file
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe
from minitron.recipe.source import Source


def find_leaks(recipe: Recipe) -> list[str]:
    """A sentence for each source of evaluation whose documents another section may read, too.

    Sources are told apart by file or name and split; copies of one text in two files are not seen.
    """
    return [
        f"{judged} must not read the text that {trained} reads, both name {source.path}; set the same held_out above 0 "
        f"and the same field on both, got {_split(source)} and {_split(other)}"
        for judged, source in _places("evaluate", recipe.evaluate.data)
        for trained, other in _trained_on(recipe)
        if _text(source) == _text(other) and not (source.held_out > 0 and _split(source) == _split(other))
    ]


def _trained_on(recipe: Recipe) -> Iterator[tuple[str, Source]]:
    yield from _places("score", recipe.score.data)
    if recipe.depth_first is not None:
        yield from _distilled("depth_first.distill", recipe.depth_first.distill)
    if recipe.correct_teacher is not None:
        yield from _places("correct_teacher", recipe.correct_teacher.data)
    for name, section in (("compensate", recipe.prune.compensate), ("repair", recipe.prune.repair)):
        if section is not None:
            yield from _places(f"prune.{name}", section.data)
    yield from _distilled("distill", recipe.distill)


def _distilled(name: str, section: DistillSection) -> Iterator[tuple[str, Source]]:
    yield from _places(name, section.data)
    for number, phase in enumerate(section.phases):
        yield from _places(f"{name}.phases.{number}", phase.text)


def _places(section: str, sources: tuple[Source, ...]) -> Iterator[tuple[str, Source]]:
    for number, source in enumerate(sources):
        yield f"{section}.data.{number}", source


def _text(source: Source) -> tuple[str, str]:
    if is_text_file(source.path):
        return str(Path(source.path).resolve()), ""
    return source.path, source.split


def _split(source: Source) -> str:
    return f"held_out={source.held_out} of {source.field!r}"
