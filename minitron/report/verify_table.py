"""The table of `minitron verify`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = {"any order": "any order", "cut": "cut = zeroed", "seen": "zeroing is seen"}


def verify_table(findings: Sequence[Mapping[str, Any]]) -> Table:
    """One line an axis: how far apart the logits are that each law holds against each other."""
    table = Table("axis", *(f"{title}" for title in SHOWN.values()), "holds")
    axes = dict.fromkeys(found["axis"] for found in findings if found["law"] in SHOWN)
    for axis in axes:
        own = [found for found in findings if found["axis"] == axis]
        cells = [_worst([found for found in own if found["law"] == law], smallest=law == "seen") for law in SHOWN]
        table.add_row(axis, *cells, "yes" if all(found["holds"] for found in own) else "NO")
    return table


def _worst(findings: Sequence[Mapping[str, Any]], *, smallest: bool) -> str:
    """The distance nearest to breaking the law; what could not be made where one could not."""
    faults = [found["fault"] for found in findings if found["apart"] is None]
    if faults or not findings:
        return faults[0] if faults else ""
    apart = [found["apart"] for found in findings]
    return f"{min(apart) if smallest else max(apart):.1e}"
