"""Charts of the page: the library that draws them in a browser, and what all of them look like."""

from collections.abc import Mapping, Sequence

from minitron.artifacts.json_files import JsonObject, JsonValue
from minitron.errors import MinitronError
from minitron.report.page.parts import Spec
from minitron.units import GIB, MIB

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name: nothing is fetched from there
VEGA_LITE = "6.4"
# Colors are the page's own, so that one chart serves on light and on dark ground.
INK, FAINT, GRID = "var(--ink)", "var(--faint)", "var(--line)"
CONFIG: JsonObject = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": FAINT,
        "tickColor": FAINT,
        "gridColor": GRID,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
    },
    "axisQuantitative": {"labelOverlap": "greedy", "labelSeparation": 6},
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "orient": "top",
        "layout": {"top": {"direction": "vertical", "anchor": "start"}},
        "direction": "horizontal",
        "columns": 3,
        "labelFontSize": 11,
        "labelLimit": 150,
        "symbolStrokeWidth": 2,
        "symbolBaseFillColor": INK,
    },
    "title": {"color": INK},
    "text": {"color": INK},
}


def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script.

    Raises:
        MinitronError: The package that carries them is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise MinitronError(
            "charts of the page need vl-convert-python, which is not installed: pip install 'minitron[report]'"
        ) from error
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return script


def chart(
    layers: Sequence[Mapping[str, JsonValue]],
    *,
    values: Sequence[Mapping[str, JsonValue]],
    height: int,
) -> Spec:
    """A chart as wide as the page allows.

    Args:
        layers: Marks and their encodings, the lowest first.
        values: Rows of data that layers without data of their own show.
        height: In pixels, axes and legends included.
    """
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": CONFIG,
        "data": {"values": [dict(row) for row in values]},
        "layer": [dict(layer) for layer in layers],
    }


def tooltip(*fields: tuple[str, str, str]) -> list[JsonValue]:
    """What is told of a mark: (field, title, number format, or empty for text)."""
    return [
        {"field": field, "title": title, "type": "quantitative", "format": form}
        if form
        else {"field": field, "title": title, "type": "nominal"}
        for field, title, form in fields
    ]


def height_of_rows(rows: int, *, step: int = 18) -> int:
    """Pixels of a chart with so many rows, an axis and a legend."""
    return 125 + rows * step


def byte_unit(largest: float) -> tuple[int, str]:
    """The unit that bytes of a chart are in, and its name.

    >>> byte_unit(3 * GIB), byte_unit(5000)
    ((1073741824, 'GiB'), (1048576, 'MiB'))
    """
    return (GIB, "GiB") if largest >= GIB else (MIB, "MiB")
