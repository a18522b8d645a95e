"""Tables for a terminal: the closing table of a run, candidates, the verdict of fit, metrics of one model."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

MIB, GIB = 2**20, 2**30
PART_LABELS = {
    "weights": "weights",
    "kv": "KV cache",
    "ssm": "Mamba state",
    "conv": "conv state",
    "workspace": "workspace",
}


def format_bytes(count: int) -> str:
    """Bytes in MiB below one GiB, else in GiB.

    >>> format_bytes(3 * 2**29), format_bytes(5 * 2**19)
    ('1.500 GiB', '2.500 MiB')
    """
    return f"{count / GIB:.3f} GiB" if abs(count) >= GIB else f"{count / MIB:.3f} MiB"


def metrics_table(metrics: Mapping[str, Mapping[str, Any]], *, budget_bytes: int | None, context_tokens: int) -> Table:
    """Models side by side, one column each."""
    table = Table(title=f"Memory is for {context_tokens:,} tokens", title_justify="left")
    table.add_column("")
    for model in metrics:
        table.add_column(model, justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("parameters", [f"{m['params']:,}" for m in metrics.values()]),
        ("memory", [format_bytes(m["memory"]["total_bytes"]) for m in metrics.values()]),
    ]
    if budget_bytes is not None:
        verdicts = ["fits" if m["memory"]["total_bytes"] <= budget_bytes else "too large" for m in metrics.values()]
        rows.append((f"budget {format_bytes(budget_bytes)}", verdicts))
    rows.append(("held-out loss, nats a token", [f"{m['loss']:.4f}" for m in metrics.values()]))
    rows.append(("KL to teacher, nats a token", [_optional(m["kl_to_teacher"], "{:.4f}") for m in metrics.values()]))
    first = next(iter(metrics.values()))
    if "exact_match" in first:
        name = f"{first['task']}, exact match of {first['problems']}"
        rows.append((name, [f"{m['exact_match']:.1%}" for m in metrics.values()]))
    rows.append(("generated tokens/s, batch 1", [f"{m['tokens_per_s']:.0f}" for m in metrics.values()]))
    for label, cells in rows:
        table.add_row(label, *cells)
    return table


def candidates_table(result: Mapping[str, Any]) -> Table:
    """Candidates of a search, largest first."""
    table = Table(
        title=f"{result['num_feasible']} of {result['num_shapes']} shapes fit {format_bytes(result['budget_bytes'])}",
        title_justify="left",
    )
    for column in ("#", "blocks", "hidden", "FFN", "Mamba heads", "parameters", "memory"):
        table.add_column(column, justify="right")
    for number, candidate in enumerate(result["candidates"], start=1):
        shape = candidate["shape"]
        table.add_row(
            str(number),
            str(len(candidate["layers"])),
            str(shape["hidden_size"]),
            str(shape["intermediate_size"]),
            f"{shape['mamba_num_heads']} x {shape['mamba_head_dim']}",
            f"{candidate['params']:,}",
            format_bytes(candidate["memory"]["total_bytes"]),
        )
    return table


def fit_table(report: Mapping[str, Any]) -> Table:
    """The verdict of fit: what the bytes hold, and what is left."""
    table = Table(title="fits" if report["fits"] else "does not fit", title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("parameters", f"{report['params']:,}")
    for part, label in PART_LABELS.items():
        table.add_row(label, format_bytes(report[f"{part}_bytes"]))
    table.add_row("total", format_bytes(report["total_bytes"]), style="bold")
    table.add_row("budget", format_bytes(report["budget_bytes"]))
    table.add_row("headroom", format_bytes(report["headroom_bytes"]), style="bold")
    for label, limit in (("largest context, tokens", "context_tokens"), ("largest number of sequences", "sequences")):
        largest = report[f"max_{limit}"]
        table.add_row(label, "no limit" if largest is None else f"{largest:,}")
    return table


def scores_table(summary: list[dict[str, Any]]) -> Table:
    """One line a block: what it is, its depth score, and how unevenly its units matter."""
    table = Table(title="Importance by block", title_justify="left")
    for column in ("block", "kind", "depth score", "removed as", "units", "lowest / mean", "highest / mean"):
        table.add_column(column, justify="right")
    for row in summary:
        table.add_row(
            str(row["layer"]),
            row["kind"],
            f"{row['depth']:.4g}",
            _optional(row["removed"], "{}"),
            _optional(row["units"], "{}"),
            _optional(row["lowest"], "{:.3f}"),
            _optional(row["highest"], "{:.3f}"),
        )
    return table


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
