"""Training and held-out curves, and what held-out text says of each model."""

from collections.abc import Mapping, Sequence

from minitron.artifacts.json_files import JsonValue
from minitron.distill.training.record import DistillRecord
from minitron.evaluate.metrics import Metrics
from minitron.report.page.charts import chart, height_of_rows, tooltip
from minitron.report.page.parts import Figure, Note, Part, Section, Spec, Table, missing

TRAINING, WATCHED = "training text", "validation text"
CURVE_COLORS = {TRAINING: "#E69F00", WATCHED: "#0072B2"}
# Of models in their order; students that were trained inside another one have what is left.
BAR_COLORS = ("#8a939c", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def curves_section(record: DistillRecord | None, metrics: Mapping[str, Metrics] | None, why_not: str) -> Section:
    """How the distillation went, and what held-out text says.

    Args:
        record: What distillation did; None where the run did not come so far.
        metrics: Metrics by model; None where the run did not come so far.
        why_not: What is missing, where something is.
    """
    parts: list[Part] = []
    if record is not None:
        parts += [Note(text=_in_words(record)), _curve_figure(record)]
    if metrics is not None:
        parts.append(_held_out_figure(metrics))
    if record is None or metrics is None:
        parts.append(missing(why_not))
    return Section(name="curves", title="Training and held-out text", parts=tuple(parts))


def _in_words(record: DistillRecord) -> str:
    said = f"{record.tokens:,} tokens in {record.seconds:,.0f} s."
    if record.validation is not None:
        said += f" The weights after {record.validation.kept_tokens:,} tokens are kept, the best on validation text."
        if record.validation.worse:
            said += " The training ended worse than it started."
    if record.rate is not None:
        said += f" Learning rate {record.rate.rate:g}: {record.rate.reason}."
    return said


def _curve_figure(record: DistillRecord) -> Figure:
    curves: dict[str, Sequence[tuple[int, float]]] = {TRAINING: record.curve}
    if record.validation is not None:
        curves[WATCHED] = record.validation.curve
    return Figure(
        name="curve",
        caption="Loss of the distillation, nats a token, on the text that it trains on and on text held out of it",
        spec=_curve_spec(curves, None if record.validation is None else record.validation.kept_tokens),
        table=Table(
            columns=("curve", "tokens", "loss, nats a token"),
            rows=tuple(
                (name, f"{tokens:,}", f"{loss:.5f}") for name, curve in curves.items() for tokens, loss in curve
            ),
        ),
    )


def _curve_spec(curves: Mapping[str, Sequence[tuple[int, float]]], kept_tokens: int | None) -> Spec:
    values: list[dict[str, JsonValue]] = [
        {"curve": name, "tokens": tokens, "loss": loss} for name, curve in curves.items() for tokens, loss in curve
    ]
    is_log = all(loss > 0 for curve in curves.values() for _, loss in curve)
    places: dict[str, JsonValue] = {
        "x": {"field": "tokens", "type": "quantitative", "title": "tokens trained on", "axis": {"format": "~s"}},
        "y": {
            "field": "loss",
            "type": "quantitative",
            "title": "loss, nats a token",
            "scale": {"type": "log", "nice": False} if is_log else {"zero": False},
        },
    }
    names: list[JsonValue] = [*curves]
    colors: dict[str, JsonValue] = {"domain": names, "range": [CURVE_COLORS[str(name)] for name in names]}
    lines: dict[str, JsonValue] = {
        "mark": {"type": "line", "point": {"size": 18}, "strokeWidth": 1.5},
        "encoding": {
            **places,
            "color": {"field": "curve", "type": "nominal", "scale": colors, "title": None},
            "tooltip": tooltip(("curve", "curve", ""), ("tokens", "tokens", ",d"), ("loss", "loss", ".4f")),
        },
    }
    kept: list[JsonValue] = [
        {"tokens": tokens, "loss": loss, "curve": "kept weights"}
        for tokens, loss in curves.get(WATCHED, ())
        if tokens == kept_tokens
    ]
    ring: dict[str, JsonValue] = {
        "data": {"values": kept},
        "mark": {"type": "point", "size": 170, "color": "#D55E00", "strokeWidth": 2.5},
        "encoding": {
            **places,
            "tooltip": tooltip(("curve", "what", ""), ("tokens", "tokens", ",d"), ("loss", "loss", ".4f")),
        },
    }
    return chart([lines, *([ring] if kept else [])], values=values, height=300)


def _held_out_figure(metrics: Mapping[str, Metrics]) -> Figure:
    measures = {"loss": "held-out loss", "kl": "KL to the teacher"}
    values: list[dict[str, JsonValue]] = [
        {"model": model, "measure": title, "nats": value}
        for model, found in metrics.items()
        for name, title in measures.items()
        if (value := found.loss if name == "loss" else found.kl_to_teacher) is not None
    ]
    models: list[JsonValue] = [*metrics]
    palette: list[JsonValue] = [BAR_COLORS[number % len(BAR_COLORS)] for number in range(len(models))]
    bars: dict[str, JsonValue] = {
        "mark": "bar",
        "encoding": {
            "y": {"field": "measure", "type": "nominal", "title": None, "sort": [*measures.values()]},
            "yOffset": {"field": "model", "sort": models},
            "x": {"field": "nats", "type": "quantitative", "title": "nats a token"},
            "color": {
                "field": "model",
                "type": "nominal",
                "title": None,
                "scale": {"domain": models, "range": palette},
            },
            "tooltip": tooltip(("model", "model", ""), ("measure", "measure", ""), ("nats", "nats a token", ".4f")),
        },
    }
    return Figure(
        name="held-out",
        caption="Held-out text: loss, and KL to the teacher, in nats a token",
        spec=chart([bars], values=values, height=height_of_rows(2 * len(models))),
        table=Table(
            columns=("model", "held-out loss, nats a token", "KL to the teacher, nats a token"),
            rows=tuple(
                (model, f"{one.loss:.4f}", "" if one.kl_to_teacher is None else f"{one.kl_to_teacher:.4f}")
                for model, one in metrics.items()
            ),
        ),
    )
