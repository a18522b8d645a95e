"""A row of a stored file, and what a reader of a format is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Row:
    """One record.

    Attributes:
        values: Its fields; of columnar files those that were asked for.
        where: Where it is stored, for messages: file and line, or file and row.
        fields: Names of all fields that it has, where they are more than `values`.
    """

    values: Mapping[str, object]
    where: str
    fields: Sequence[str] = ()

    @property
    def names(self) -> Sequence[str]:
        """Names of its fields, for messages."""
        return self.fields or tuple(self.values)


# Path and the names of the fields that are wanted; columnar readers read no others.
Reader: TypeAlias = Callable[[Path, Sequence[str]], Iterator[Row]]
