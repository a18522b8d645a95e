"""Paths in a recipe: which settings hold one, and making them absolute."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from minitron.artifacts.paths import can_be_path
from minitron.checkpoints.hub import hub_name
from minitron.data.locations import is_local
from minitron.errors import RecipeError
from minitron.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """Marks a setting as a path that is taken from the recipe's folder.

    Attributes:
        or_dataset: Only where it is meant to be on this machine; anything else is the name of a dataset.
        or_hub: Only where it is there or cannot be a name on the Hugging Face hub.
    """

    or_dataset: bool = False
    or_hub: bool = False

    def resolve(self, value: str, folder: Path) -> str:
        """The path from a folder, or the name as it is.

        Raises:
            RecipeError: It can be neither.
        """
        if not can_be_path(value):
            raise RecipeError(f"a path in a recipe must be one that a file can have, got {value!r}")
        is_name = self.or_dataset and not is_local(value, folder)
        if self.or_hub and not (folder / value).exists():
            is_name = hub_name(value) is not None
        return value if is_name else str(folder / value)


RecipePath = Annotated[str, Relative()]
OptionalPath = Annotated[str | None, Relative()]
TextPath = Annotated[str, Relative(or_dataset=True)]
CheckpointPath = Annotated[str, Relative(or_hub=True)]


def settings_in(settings: Settings, place: str = "") -> Iterator[tuple[str, Settings]]:
    """All settings that lie in others, themselves first, each with its place in the recipe, as `distill.data.0`."""
    yield place, settings
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        inner = {f".{number}": one for number, one in enumerate(value)} if isinstance(value, tuple) else {"": value}
        for number, one in inner.items():
            if isinstance(one, Settings):
                yield from settings_in(one, f"{place}.{name}{number}".lstrip("."))


def resolve_paths(settings: SettingsT, folder: Path) -> SettingsT:
    """The same settings with every path in them taken from a folder."""
    changed: dict[str, object] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        marks = [mark for mark in field.metadata if isinstance(mark, Relative)]
        if isinstance(value, Settings):
            changed[name] = resolve_paths(value, folder)
        elif isinstance(value, tuple):
            changed[name] = tuple(resolve_paths(one, folder) if isinstance(one, Settings) else one for one in value)
        elif marks and value is not None:
            changed[name] = marks[0].resolve(value, folder)
    return settings.model_copy(update=changed)
