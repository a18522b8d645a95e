"""Tables of a forecast: each axis alone, mixes by bytes, and tokens to a KL."""

from collections.abc import Sequence

from rich.table import Table

from minitron.forecast.jackknife import Interval
from minitron.forecast.record import CutSizes, ForecastRecord, PredictedCut, RecoveryForecast
from minitron.report.forecast_figure import axis_label
from minitron.units import format_bytes


def axes_table(record: ForecastRecord) -> Table:
    """Each axis alone, a line for each size that is searched."""
    table = Table(
        title=f"KL to the teacher {_when(record)}, nats a token; intervals of {record.confidence:.0%}; the law without "
        f"a point misses it by {record.typical_error:.0%} (median), {record.largest_error:.0%} at most",
        title_justify="left",
    )
    table.add_column("one axis alone")
    for column in ("size", "memory", "KL", "interval"):
        table.add_column(column, justify="right")
    for axis in record.axes:
        for number, each in enumerate(axis.cuts):
            size = each.cut.num_hidden_layers if axis.axis == "layers" else each.cut.sizes[axis.axis]
            name = "" if number else axis_label(axis.axis)
            table.add_row(name, str(size), format_bytes(each.cut.total_bytes), *_kl_cells(each))
    return table


def mixes_table(record: ForecastRecord) -> Table:
    """Mixes of axes: the least KL at each number of bytes, the best within the limits, and what was asked for."""
    table = Table(title=f"Mixes of axes, of {format_bytes(record.source_bytes)}", title_justify="left")
    for column in ("", "cut to"):
        table.add_column(column)
    for column in ("memory", "KL", "interval"):
        table.add_column(column, justify="right")
    rows: Sequence[tuple[str, PredictedCut]] = [
        *(("", each) for each in record.front),
        *(("within limits", each) for each in (record.best,) if each is not None),
        *(("asked for", each) for each in record.asked),
    ]
    for name, each in rows:
        table.add_row(name, describe_cut(each.cut), format_bytes(each.cut.total_bytes), *_kl_cells(each))
    return table


def recovery_lines(found: RecoveryForecast) -> list[str]:
    """Tokens and hours to a KL, in words."""
    if found.tokens is None:
        return [str(found.outside)]
    ends = [f"{end:,}" if end is not None else "not within reach" for end in (found.low_tokens, found.high_tokens)]
    lines = [
        f"KL {found.target_kl:g} on validation text: {found.tokens:,} tokens of a whole schedule ({ends[0]} to "
        f"{ends[1]}); {found.seen_tokens:,} were seen, the law is followed to {found.most_tokens:,}",
        f"at {found.tokens_per_s:,.0f} tokens a second, as measured: {found.hours:.2g} hours",
    ]
    if found.gpu_hours is not None:
        lines.append(f"on the recipe's devices, an estimate: {found.gpu_hours:.2g} GPU hours")
    return lines


def describe_cut(cut: CutSizes) -> str:
    """A cut by what it cuts."""
    blocks = [f"{cut.num_hidden_layers} blocks"] if cut.lost.get("layers") else []
    return ", ".join([*blocks, *(f"{axis} {size}" for axis, size in cut.sizes.items())])


def _when(record: ForecastRecord) -> str:
    return "after repair" if record.repaired else "right after pruning"


def _kl_cells(each: PredictedCut) -> tuple[str, str]:
    return ("-", "outside what was measured") if each.kl is None else (f"{each.kl.predicted:.4f}", _range(each.kl))


def _range(kl: Interval) -> str:
    return f"{kl.low:.4f} to {kl.high:.4f}"
