"""Tables of a plan, and of how two plans differ."""

from rich.table import Table

from minitron.prune.plan_summary import CutDifference, CutSummary, PlanDifference, PlanSummary

MOST_INDICES = 36  # characters of kept indices shown in a row


def plan_table(described: PlanSummary) -> Table:
    """One row a set of units that is pruned; blocks have their numbers in the source."""
    params = described["params"]
    removed = described["removed_layers"]
    table = Table(
        title=f"{params['before']:,} to {params['after']:,} parameters; "
        + (f"removed blocks: {', '.join(map(str, removed))}" if removed else "all blocks stay"),
        title_justify="left",
    )
    for column in ("block", "axis", "kept", "of", "indices"):
        table.add_column(column, justify="left" if column in ("axis", "indices") else "right")
    for cut in described["cuts"]:
        table.add_row(_where(cut), cut["axis"], str(cut["kept"]), str(cut["of"]), _short(cut["indices"]))
    for name, scale in described["scales"].items():
        table.add_row("", name, "", "", f"times {scale:.4f}")
    return table


def plan_diff_table(difference: PlanDifference) -> Table:
    """One row a set of units that two plans choose differently, with the fraction that both keep."""
    title = "the plans are the same" if difference["same"] else "the plans differ"
    table = Table(title=title, title_justify="left")
    for column in ("block", "axis", "both keep", "only the first", "only the second"):
        table.add_column(column, justify="right" if column in ("block", "both keep") else "left")
    only_layers = (difference["layers_only_first"], difference["layers_only_second"])
    layers = [", ".join(map(str, found)) for found in only_layers]
    if any(layers):
        table.add_row("", "blocks", "", *layers)
    for axis, sizes in difference["sizes"].items():
        table.add_row("", axis, "", str(sizes["first"]), str(sizes["second"]))
    for cut in difference["cuts"]:
        only = (_short(cut["only_first"]), _short(cut["only_second"]))
        table.add_row(_where(cut), cut["axis"], f"{cut['common']:.1%}", *only)
    if difference["scales_differ"]:
        table.add_row("", "factors on norms", "", "differ", "differ")
    return table


def _where(cut: CutSummary | CutDifference) -> str:
    if cut["layer"] is None:
        return "all"
    return str(cut["layer"]) if cut["entry"] is None else f"{cut['layer']}, expert {cut['entry']}"


def _short(indices: str) -> str:
    return indices if len(indices) <= MOST_INDICES else indices[: MOST_INDICES - 4].rpartition(",")[0] + ", ..."
