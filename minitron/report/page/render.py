"""The page as one HTML file that asks nothing of a network; everything that comes from a run is escaped."""

import json
import re
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from minitron.report.page.parts import (
    Answers,
    Code,
    Diagram,
    Figure,
    Folded,
    Note,
    Page,
    Part,
    Section,
    Table,
)

# What a cell of a table of numbers holds.
_LONG = ' class="long"'
_NUMBER = re.compile(r"[-+(]*[\d.,]+\)?(?: ?(?:%|GiB|MiB))?|-|")


def render_page(page: Page, *, library: str) -> str:
    """The page as HTML.

    Args:
        page: What it shows.
        library: Vega, Vega-Lite and vega-embed as one script.
    """
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = "".join(f'<a href="#{escape(one.name)}">{escape(one.title)}</a>' for one in page.sections)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # else a browser asks a server for one
            f"<title>{escape(page.title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{escape(page.title)}</h1><p>{escape(page.subtitle)}</p><nav>{links}</nav></header>",
            "<main>",
            *(_section(section) for section in page.sections),
            "</main>",
            "<footer>Written by minitron report.</footer>",
            f"<script>{_script(library)}</script>",
            f"<script>\n{_script(script)}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(section: Section) -> str:
    shown = "\n".join(_part(part) for part in section.parts)
    return f'<section id="{escape(section.name)}">\n<h2>{escape(section.title)}</h2>\n{shown}\n</section>'


def _part(part: Part) -> str:
    return _SHOWN[type(part)](part)


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        marked = ' class="marked"' if number == table.marked else ""
        cells = "".join(f"<td{_LONG if len(cell) > 40 else ''}>{escape(cell)}</td>" for cell in row[1:])
        rows.append(f'<tr{marked}><th scope="row">{escape(row[0])}</th>{cells}</tr>')
    is_numbers = all(_NUMBER.fullmatch(cell) for row in table.rows for cell in row[1:])
    style = ' class="numbers"' if is_numbers else ""
    body = "\n".join(rows)
    return f'<div class="scroll"><table{style}><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _figure(figure: Figure) -> str:
    name = escape(figure.name)
    spec = json.dumps(figure.spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<figure id="{name}"><figcaption>{escape(figure.caption)}</figcaption>'
        f'<div class="chart" role="img" aria-label="{escape(figure.caption)}" data-spec="{name}-spec"></div>'
        f'<script type="application/json" id="{name}-spec">{spec}</script>'
        f"{_data(figure.table)}</figure>"
    )


def _diagram(diagram: Diagram) -> str:
    squares = "".join(
        f'<span class="block{"" if block.kept else " removed"}" style="background:{escape(block.color)}" '
        f'title="{escape(block.about)}">{escape(block.letter)}<small>{number}</small></span>'
        for number, block in enumerate(diagram.blocks)
    )
    kinds = "".join(
        f'<span><i style="background:{escape(color)}"></i>{escape(letter)} {escape(name)}</span>'
        for letter, color, name in diagram.kinds
    )
    return (
        f'<figure id="{escape(diagram.name)}"><figcaption>{escape(diagram.caption)}</figcaption>'
        f'<div class="blocks">{squares}</div><div class="kinds">{kinds}</div>{_data(diagram.table)}</figure>'
    )


def _data(table: Table) -> str:
    return f"<details><summary>The data as a table</summary>{_table(table)}</details>"


def _answers(answers: Answers) -> str:
    shown = "".join(
        f'<div class="answer {escape(one.tone)}"><h3>{escape(one.question)}</h3><strong>{escape(one.answer)}</strong>'
        f"<p>{escape(one.detail)}</p></div>"
        for one in answers.answers
    )
    return f'<div class="answers">{shown}</div>'


def _code(code: Code) -> str:
    return f'<div class="code"><p>{escape(code.label)}</p><pre>{escape(code.text)}</pre></div>'


def _folded(folded: Folded) -> str:
    return f"<details><summary>{escape(folded.label)}</summary><pre>{escape(folded.text)}</pre></details>"


def _note(note: Note) -> str:
    style = ' class="missing"' if note.missing else ""
    return f"<p{style}>{escape(note.text)}</p>"


def _script(text: str) -> str:
    """A script as it can stand in a page: nothing in it ends the element."""
    return re.sub(r"</(?=script)", r"<\\/", text, flags=re.IGNORECASE)


_SHOWN: Mapping[type[Part], Callable[[Any], str]] = {
    Answers: _answers,
    Code: _code,
    Diagram: _diagram,
    Figure: _figure,
    Folded: _folded,
    Note: _note,
    Table: _table,
}
