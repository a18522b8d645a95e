"""Figure of a forecast: predicted KL against bytes, for each axis alone and for mixes, with what was measured."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minitron.forecast.record import ForecastRecord, MeasuredCut, PredictedCut
from minitron.units import GIB, MIB

# Okabe-Ito colors, told apart by color-blind readers.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#000000")


def draw_forecast(record: ForecastRecord, path: Path) -> None:
    """Draws a forecast as a PNG: axes alone on the left, mixes on the right.

    Args:
        record: The forecast.
        path: Where to write.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    alone, mixed = figure.subplots(1, 2, sharey=True)
    unit, name = (GIB, "GiB") if record.source_bytes >= GIB else (MIB, "MiB")
    for number, axis in enumerate(record.axes):
        color = COLORS[number % len(COLORS)]
        _draw_band(alone, axis.cuts, unit, color=color, label=axis_label(axis.axis))
        _draw_measured(alone, [each for each in record.measured if set(each.cut.lost) == {axis.axis}], unit, color)
    alone.set_title("One axis alone")
    _draw_band(mixed, record.front, unit, color=COLORS[0], label="least KL that is forecast")
    _draw_measured(
        mixed, [each for each in record.measured if len(each.cut.lost) > 1], unit, COLORS[0], label="measured"
    )
    if record.best is not None and record.best.kl is not None:
        mixed.plot(
            [record.best.cut.total_bytes / unit],
            [record.best.kl.predicted],
            "*",
            color="#D55E00",
            label="within limits",
        )
    mixed.axvline(record.budget_bytes / unit, color="#D55E00", linestyle="--", label="budget")
    mixed.set_title("Mixes of axes")
    for axes in (alone, mixed):
        axes.set_yscale("log")
        axes.set_xlabel(f"predicted memory, {name}")
        axes.legend(fontsize=8)
    alone.set_ylabel(f"KL to the teacher {'after repair' if record.repaired else 'right after pruning'}, nats a token")
    figure.suptitle(f"{record.name}: forecast, {record.confidence:.0%} intervals, dots are measured")
    figure.savefig(path, dpi=120)


def axis_label(axis: str) -> str:
    """An axis by the name that recipes have for it."""
    return "num_hidden_layers" if axis == "layers" else axis


def _draw_band(axes: Axes, cuts: Sequence[PredictedCut], unit: int, *, color: str, label: str) -> None:
    shown = [(each.cut.total_bytes / unit, each.kl) for each in cuts if each.kl is not None]
    sizes = [size for size, _ in shown]
    axes.plot(sizes, [kl.predicted for _, kl in shown], color=color, label=label)
    axes.fill_between(sizes, [kl.low for _, kl in shown], [kl.high for _, kl in shown], color=color, alpha=0.15)


def _draw_measured(
    axes: Axes, points: Sequence[MeasuredCut], unit: int, color: str, *, label: str | None = None
) -> None:
    sizes = [each.cut.total_bytes / unit for each in points]
    axes.plot(sizes, [each.kl for each in points], "o", color=color, markersize=5, label=label)
