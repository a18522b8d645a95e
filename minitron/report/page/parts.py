"""What the page of a run is made of: sections of tables, figures, commands and words, before they are HTML."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minitron.artifacts.json_files import JsonValue

Spec = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under columns; the first column names the row.

    Attributes:
        columns: Heads.
        rows: Cells, as many in each row as there are columns.
        marked: The row that stands out, if any.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart with the data that it shows.

    Attributes:
        name: Its id on the page.
        caption: What it shows.
        spec: The chart in Vega-Lite, its data inside.
        table: The same data.
    """

    name: str
    caption: str
    spec: Spec
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A square of a diagram of blocks: its letter, what it is, and what became of it."""

    letter: str
    color: str
    kept: bool
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    """The blocks of a model in their order, with the data that it shows.

    Attributes:
        name: Its id on the page.
        caption: What it shows.
        blocks: The squares.
        kinds: (letter, color, name) of each kind of block.
        table: The same data.
    """

    name: str
    caption: str
    blocks: tuple[Block, ...]
    kinds: tuple[tuple[str, str, str], ...]
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One of the page's first answers.

    Attributes:
        question: What it answers.
        answer: In a word or a number.
        detail: What the answer is from.
        tone: How it is meant.
    """

    question: str
    answer: str
    detail: str
    tone: Literal["good", "bad", "plain"] = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers side by side."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Something to type, and what it does."""

    label: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Long text that is shown when it is asked for."""

    label: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A paragraph; `missing` says of something that the run does not have why it is not shown."""

    text: str
    missing: bool = False


Part = Table | Figure | Diagram | Answers | Code | Folded | Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A headline and what stands under it."""

    name: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole page."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def missing(text: str) -> Note:
    """What is not shown, and why."""
    return Note(text=text, missing=True)
