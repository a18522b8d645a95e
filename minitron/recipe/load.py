"""Reading a recipe: YAML and overrides in, a checked value out; every fault is said at once, a line each."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from minitron.artifacts.yaml_text import YamlFaultError, parse_yaml
from minitron.distill.settings import RATE_TAGS
from minitron.errors import RecipeError
from minitron.recipe.leaks import find_leaks
from minitron.recipe.paths import resolve_paths
from minitron.recipe.recipe import Recipe
from minitron.recipe.search import UNION_TAGS
from minitron.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)

# Keys of older recipes -> what they are called now.
RENAMED = {
    "distill.stages": "distill.phases",
    "depth_first.distill.stages": "depth_first.distill.phases",
    "distill.teacher.samples": "distill.teacher.drawn_tokens",
    "depth_first.distill.teacher.samples": "depth_first.distill.teacher.drawn_tokens",
    "distill.teacher.window_blocks": "distill.teacher.window_sequences",
    "depth_first.distill.teacher.window_blocks": "depth_first.distill.teacher.window_sequences",
    "evaluate.blocks": "evaluate.sequences",
    "search.tournament.blocks": "search.tournament.sequences",
}


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Reads, overrides and validates a recipe; paths in it become absolute.

    Args:
        path: The YAML file.
        overrides: `key=value` with dots between levels, values in YAML, as in `distill.tokens=1000000`.

    Raises:
        RecipeError: Every fault at once, a line each.
    """
    if not path.is_file():
        raise RecipeError(f"recipe not found: {path}")
    values = _read_yaml(path)
    for override in overrides:
        _override(values, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(*(_fault(path, fault, Recipe) for fault in _faults(error))) from error
    recipe = resolve_paths(recipe, path.resolve().parent)
    leaks = find_leaks(recipe)
    if leaks:
        raise RecipeError(*(f"{path}: {leak}" for leak in leaks))
    return recipe


def make_section(kind: type[SettingsT], values: dict[str, object], overrides: tuple[str, ...] = ()) -> SettingsT:
    """One section of a recipe from values and overrides (`key=value`), validated.

    Raises:
        RecipeError: Every fault at once, a line each.
    """
    for override in overrides:
        _override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(*(_fault(None, fault, kind) for fault in _faults(error))) from error


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except YamlFaultError as error:
        line = "" if error.line is None else f":{error.line}"
        raise RecipeError(f"{path}{line}: a recipe must be YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: a recipe must be YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe must be a mapping of sections, got {type(values).__name__}")
    return values


def _override(values: dict[str, object], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"an override must be key=value, got {override!r}")
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"an override must name a setting of a section, {section} in {key!r} is a value")
        values = inner
    try:
        values[last] = parse_yaml(text)
    except YamlFaultError as error:
        raise RecipeError(f"an override's value must be YAML, {override!r} is not") from error


def _faults(error: ValidationError) -> list[ErrorDetails]:
    """The faults; a list is not called too short because its entries have faults."""
    found = error.errors()
    inner = [fault["loc"] for fault in found]
    return [fault for fault in found if fault["type"] != "too_short" or not _has_inner(fault["loc"], inner)]


def _has_inner(where: tuple[int | str, ...], others: Sequence[tuple[int | str, ...]]) -> bool:
    return any(len(other) > len(where) and other[: len(where)] == where for other in others)


def _fault(path: Path | None, fault: ErrorDetails, root: type[Settings]) -> str:
    loc = tuple(part for part in fault["loc"] if part not in (*UNION_TAGS, *RATE_TAGS))
    where = ".".join(str(part) for part in loc)
    file = "" if path is None else f"{path}: "
    if fault["type"] == "extra_forbidden":
        if where in RENAMED:
            return f"{file}{where} is now {RENAMED[where]}"
        near = difflib.get_close_matches(str(loc[-1]), _known_keys(loc[:-1], root), n=1)
        return f"{file}unknown key {where}" + (f"; did you mean {near[0]}?" if near else "")
    if fault["type"] == "missing":
        return f"{file}{where} must be given"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], dict) else f", got {fault['input']!r}"
    return f"{file}{where}: {message[0].lower()}{message[1:]}{given}"


def _known_keys(where: tuple[int | str, ...], root: type[Settings]) -> list[str]:
    section: type[BaseModel] = root
    for part in where:
        if isinstance(part, str):
            section = next(_sections_in(section.model_fields[part].annotation))
    return list(section.model_fields)


def _sections_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections_in(inner)
