"""The table of `minitron check`; beside the other tables, whose imports would take half of its second."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def check_table(readers: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line a reader: whether it takes a checkpoint, and what to mind."""
    table = Table(show_header=False)
    for name, found in readers.items():
        keys = ", ".join(dict.fromkeys(each["key"] for each in found["refusals"]))
        verdict = "takes it" if found["takes"] else f"refuses it: {keys}"
        table.add_row(f"{name.partition('@')[0]} {found['version']}", verdict, "; ".join(found["notes"]))
    return table
