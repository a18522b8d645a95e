"""The answer of all checks: a table and a JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpu_checks.machine import Machine
from gpu_checks.row import Row

FORMAT = 1  # of the JSON file
COLORS = {"ok": "green", "failed": "red", "not run": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What all checks found.

    Attributes:
        machine: Where they ran.
        tiny: Whether sizes were those of tests, whose numbers say nothing of a device.
        seconds: Of all checks together.
        rows: Check -> its rows.
    """

    machine: Machine
    tiny: bool
    seconds: float
    rows: Mapping[str, Sequence[Row]]

    @property
    def failed(self) -> bool:
        """Whether any row failed."""
        return any(row.state == "failed" for rows in self.rows.values() for row in rows)

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "format": FORMAT,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self.machine.to_json(),
            "tiny": self.tiny,
            "seconds": round(self.seconds, 1),
            "ok": not self.failed,
            "rows": [{"check": check, **row.to_json()} for check, rows in self.rows.items() for row in rows],
        }
        path.write_text(json.dumps(found, indent=1) + "\n")

    def show(self, console: Console) -> None:
        """Prints it as a table."""
        table = Table(title=escape(self.machine.in_words()), title_justify="left")
        for column in ("check", "measured", "value", "beside", "ratio", "state", "note"):
            table.add_column(column, justify="right" if column in ("value", "ratio") else "left")
        for check, rows in self.rows.items():
            for place, row in enumerate(rows):
                table.add_row(*_cells(check if place == 0 else "", row), end_section=place == len(rows) - 1)
        console.print(table)


def _cells(check: str, row: Row) -> tuple[str, ...]:
    value = "-" if row.value is None else f"{row.value:.4g} {row.unit}"
    beside = "" if row.reference is None else f"{row.reference:.4g}, {row.reference_is}"
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    state = f"[{COLORS[row.state]}]{row.state}[/]"
    return (check, *(escape(cell) for cell in (row.measured, value, beside, ratio)), state, escape(row.note))
