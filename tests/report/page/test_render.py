"""The page escapes what comes from a run, asks nothing of a network, and has the data of each figure as a table."""

import json
from html.parser import HTMLParser

from minitron.report.page.charts import chart
from minitron.report.page.parts import (
    Answer,
    Answers,
    Block,
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
from minitron.report.page.render import render_page

HOSTILE = "</script><script>alert('1')</script><img src=x onerror=\"alert('2')\">&amp;"


class Seen(HTMLParser):
    """Elements, their attributes, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(*parts: Part, title: str = "a run") -> str:
    page = Page(title=title, subtitle=title, sections=(Section(name="only", title=title, parts=parts),))
    return render_page(page, library="const library = '</scr' + 'ipt>';")


def everything(text: str) -> str:
    table = Table(columns=("a", text), rows=((text, text),), marked=0)
    spec = chart([{"mark": "bar"}], values=[{"name": text}], height=20)
    return page_of(
        Answers(answers=(Answer(question=text, answer=text, detail=text),)),
        Figure(name="figure", caption=text, spec=spec, table=table),
        Diagram(
            name="diagram",
            caption=text,
            blocks=(Block(letter="M", color="#000", kept=False, about=text),),
            kinds=(("M", "#000", text),),
            table=table,
        ),
        Code(label=text, text=text),
        Folded(label=text, text=text),
        Note(text=text, missing=True),
        table,
        title=text,
    )


def test_hostile_text_makes_no_element_and_is_shown_as_it_is() -> None:
    seen, tame = Seen(everything(HOSTILE)), Seen(everything("tame"))
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in tame.elements]
    assert not any(name.startswith("on") for _, attributes in seen.elements for name in attributes)
    assert seen.text.count(HOSTILE) == tame.text.count("tame") > 10


def test_hostile_text_is_in_a_charts_data_as_it_is() -> None:
    page = everything(HOSTILE)
    data = page.partition('id="figure-spec">')[2].partition("</script>")[0]
    assert json.loads(data)["data"]["values"] == [{"name": HOSTILE}]


def test_nothing_is_fetched() -> None:
    asked = [
        value
        for _, attributes in Seen(everything("text")).elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data")
    ]
    assert {value for value in asked if value is not None and not value.startswith("#")} == {"data:,"}


def test_each_figure_holds_its_data_as_a_table() -> None:
    page = everything("text")
    figures = page.split("<figure")[1:]
    assert len(figures) == 2
    for figure in figures:
        assert "<table" in figure.partition("<details>")[2].partition("</figure>")[0]


def test_a_script_of_the_library_does_not_end_its_element() -> None:
    library = "x = '</SCRIPT>';"
    page = render_page(Page(title="a", subtitle="b", sections=()), library=library)
    assert "x = '<\\/SCRIPT>';" in page
