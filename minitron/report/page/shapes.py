"""Every counted shape as a cloud of bytes against kept importance, with the Pareto front and the candidates on it."""

from collections.abc import Mapping, Sequence

from minitron.artifacts.json_files import JsonValue
from minitron.report.page.charts import byte_unit, chart, tooltip
from minitron.report.page.parts import Figure, Note, Part, Section, Table, missing
from minitron.report.tables import format_count
from minitron.search.cloud import Cloud, CloudPoint
from minitron.search.record import CandidateRecord, SearchRecord
from minitron.units import format_bytes

FITS, OVER = "within the limits", "not within the limits"


def shapes_section(search: SearchRecord | None, cloud: Cloud | None, why_not: str) -> Section:
    """The search's candidates among all shapes.

    Args:
        search: The candidates; None where the run has none.
        cloud: All shapes; None where they could not be counted again.
        why_not: What is missing, where something is.
    """
    parts: list[Part] = []
    if search is not None:
        parts.append(
            Note(
                text=f"{search.num_feasible:,} of {search.num_shapes:,} shapes are within the limits; chosen by: "
                f"{search.chosen_by}."
            )
        )
        parts.append(_candidates_table(search))
    if search is None or cloud is None:
        parts.append(missing(why_not))
    else:
        parts.append(_cloud_figure(search, cloud))
    return Section(name="shapes", title="Shapes that were searched", parts=tuple(parts))


def describe(candidate: CandidateRecord) -> str:
    """A candidate's sizes in a line."""
    return sizes_in_words(candidate.shape.sizes, blocks=len(candidate.layers), axes=tuple(candidate.shape.family.axes))


def sizes_in_words(sizes: Mapping[str, int], *, blocks: int, axes: Sequence[str]) -> str:
    """A shape's sizes in a line.

    >>> sizes_in_words({"hidden_size": 160, "intermediate_size": 0}, blocks=9, axes=["hidden_size"])
    '9 blocks, hidden_size 160'
    """
    return ", ".join([f"{blocks} blocks", *(f"{axis} {sizes[axis]:,}" for axis in axes if sizes[axis])])


def _candidates_table(search: SearchRecord) -> Table:
    measured = any(each.repaired or each.zero_shot for each in search.candidates)
    rounds = sorted({one.tokens for each in search.candidates for one in each.rounds})
    columns = ["candidate", "shape", "parameters", "memory", "importance kept", "on the front"]
    columns += ["KL before training"] if measured else []
    columns += [f"KL at {format_count(tokens)} tokens" for tokens in rounds]
    columns += [f"predicted tokens/s on {search.device}"] if search.device else []
    rows = []
    for number, each in enumerate(search.candidates, start=1):
        row = [
            f"{number}, chosen" if number == 1 else str(number),
            describe(each),
            f"{each.params:,}",
            format_bytes(each.memory.total_bytes),
            "" if each.retained is None else f"{each.retained:.2%}",
            "yes" if each.on_front else "no",
        ]
        start = each.repaired or each.zero_shot
        row += ["" if start is None else f"{start.kl:.4f}"] if measured else []
        kls = {one.tokens: one.kl for one in each.rounds}
        row += [_optional(kls.get(tokens), ".4f") for tokens in rounds]
        row += [_optional(each.tokens_per_s, ",.1f")] if search.device else []
        rows.append(tuple(row))
    return Table(columns=tuple(columns), rows=tuple(rows), marked=0)


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _cloud_figure(search: SearchRecord, cloud: Cloud) -> Figure:
    counted = "all" if cloud.num_counted == cloud.num_shapes else f"{cloud.num_counted:,} evenly spread ones"
    caption = f"Bytes against kept importance: {counted} of {cloud.num_shapes:,} shapes"
    if cloud.num_possible < cloud.num_counted:
        caption += f", of which the family can have {cloud.num_possible:,}"
    if cloud.binned:
        caption += f", gathered in {len(cloud.points):,} points, the larger the more shapes"
    return Figure(
        name="cloud",
        caption=f"{caption}. The steps are the Pareto front, the diamonds the candidates, the dashed line the budget",
        spec=_spec(search, cloud),
        table=_table(search, cloud),
    )


def _spec(search: SearchRecord, cloud: Cloud) -> Mapping[str, JsonValue]:
    unit, name = byte_unit(max(point.total_bytes for point in cloud.points))
    x: dict[str, JsonValue] = {
        "field": "size",
        "type": "quantitative",
        "title": f"predicted memory, {name}",
        "scale": {"zero": False},
    }
    y: dict[str, JsonValue] = {
        "field": "kept",
        "type": "quantitative",
        "title": "share of importance kept",
        "axis": {"format": "%"},
        "scale": {"zero": False},
    }
    values: list[dict[str, JsonValue]] = [
        {
            "size": point.total_bytes / unit,
            "kept": point.retained,
            "shapes": point.shapes,
            "state": _state(point),
        }
        for point in cloud.points
    ]
    told = [("size", name, ",.3f"), ("kept", "kept", ".2%")]
    states: dict[str, JsonValue] = {"domain": [FITS, OVER], "range": ["#009E73", "#999999"]}
    points: dict[str, JsonValue] = {
        "mark": {"type": "circle", "opacity": 0.55, "size": 30},
        "encoding": {
            "x": x,
            "y": y,
            "color": {"field": "state", "type": "nominal", "scale": states, "title": None},
            "tooltip": tooltip(*told, ("shapes", "shapes", ",d"), ("state", "state", "")),
        },
    }
    if cloud.binned:
        area: dict[str, JsonValue] = {
            "field": "shapes",
            "type": "quantitative",
            "scale": {"range": [6, 160]},
            "legend": None,
        }
        points["encoding"] |= {"size": area}  # type: ignore[operator]
    return chart([points, *_over(search, cloud, unit, name, {"x": x, "y": y})], values=values, height=420)


def _over(
    search: SearchRecord, cloud: Cloud, unit: int, name: str, places: Mapping[str, JsonValue]
) -> list[dict[str, JsonValue]]:
    """Front, candidates and budget, which lie over the cloud."""
    told = [("about", "shape", ""), ("size", name, ",.3f"), ("kept", "kept", ".2%")]
    axes = tuple(search.candidates[0].shape.family.axes)
    front: list[JsonValue] = [
        {
            "size": point.total_bytes / unit,
            "kept": point.retained,
            "about": sizes_in_words(point.shape.sizes, blocks=point.shape.num_hidden_layers, axes=axes),
        }
        for point in cloud.front
    ]
    candidates: list[JsonValue] = [
        {
            "size": each.memory.total_bytes / unit,
            "kept": each.retained,
            "about": f"candidate {number}: {describe(each)}",
            "role": "chosen" if number == 1 else "candidate",
        }
        for number, each in enumerate(search.candidates, start=1)
        if each.retained is not None
    ]
    roles: dict[str, JsonValue] = {"domain": ["chosen", "candidate"], "range": ["#D55E00", "#0072B2"]}
    tips: dict[str, JsonValue] = {"tooltip": tooltip(*told)}
    return [
        {
            "data": {"values": front},
            "mark": {"type": "line", "interpolate": "step-after", "color": "var(--ink)", "strokeWidth": 1.5},
            "encoding": {**places},
        },
        {
            "data": {"values": front},
            "mark": {"type": "circle", "size": 16, "color": "var(--ink)", "opacity": 1},
            "encoding": {**places, **tips},
        },
        {
            "data": {"values": [{"budget": search.budget_bytes / unit}]},
            "mark": {"type": "rule", "color": "var(--budget)", "strokeDash": [6, 4], "strokeWidth": 2},
            "encoding": {
                "x": {"field": "budget", "type": "quantitative"},
                "tooltip": tooltip(("budget", f"budget, {name}", ",.3f")),
            },
        },
        {
            "data": {"values": candidates},
            "mark": {"type": "point", "shape": "diamond", "filled": True, "size": 150, "opacity": 1, "stroke": "white"},
            "encoding": {**places, **tips, "fill": {"field": "role", "type": "nominal", "scale": roles, "title": None}},
        },
    ]


def _state(point: CloudPoint) -> str:
    return FITS if 2 * point.feasible >= point.shapes else OVER


def _table(search: SearchRecord, cloud: Cloud) -> Table:
    """Candidates and front by their sizes, then the cloud."""
    axes = tuple(search.candidates[0].shape.family.axes)
    rows = [
        (
            f"candidate {number}",
            describe(each),
            format_bytes(each.memory.total_bytes),
            _optional(each.retained, ".2%"),
            "1",
            "1",
        )
        for number, each in enumerate(search.candidates, start=1)
    ]
    rows += [
        (
            "front",
            sizes_in_words(point.shape.sizes, blocks=point.shape.num_hidden_layers, axes=axes),
            format_bytes(point.total_bytes),
            f"{point.retained:.2%}",
            "1",
            str(int(point.feasible)),
        )
        for point in cloud.front
    ]
    rows += [
        (
            "cloud",
            "",
            format_bytes(point.total_bytes),
            f"{point.retained:.2%}",
            f"{point.shapes:,}",
            f"{point.feasible:,}",
        )
        for point in cloud.points
    ]
    return Table(
        columns=("what", "shape", "memory", "importance kept", "shapes", "within the limits"), rows=tuple(rows)
    )
