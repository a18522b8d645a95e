"""A row of the answer: one thing that was measured, beside what it is held against."""

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "failed", "not run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        measured: What.
        value: The number; None where there is none.
        unit: Its unit; that of the reference, too.
        reference: What it is held against; None where there is nothing.
        reference_is: What the reference is.
        state: `ok`, `failed`, or `not run` where nothing could be measured.
        note: Why it failed or was not run, or what to know of the number.
    """

    measured: str
    value: float | None = None
    unit: str = ""
    reference: float | None = None
    reference_is: str = ""
    state: State = "ok"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over its reference; None where one is missing."""
        return self.value / self.reference if self.value is not None and self.reference else None

    def to_json(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "ratio": self.ratio}

    def in_words(self) -> str:
        """As a line of progress."""
        number = "" if self.value is None else f" {self.value:.4g} {self.unit}"
        beside = "" if self.reference is None else f" ({self.reference_is}: {self.reference:.4g})"
        return f"{self.measured}:{number}{beside} {self.state}{f', {self.note}' if self.note else ''}"


def within(measured: str, error: float, allowed: float) -> Row:
    """The row of a relative error, which fails above what is allowed, and where it is no number.

    >>> within("gradient", float("nan"), 1e-5).state
    'failed'
    """
    state: State = "ok" if error <= allowed else "failed"
    note = "" if state == "ok" else f"the error must be at most {allowed:g}"
    return Row(
        measured=measured,
        value=error,
        unit="relative",
        reference=allowed,
        reference_is="allowed",
        state=state,
        note=note,
    )


def not_run(measured: str, reason: str) -> Row:
    """The row of what could not be measured."""
    return Row(measured=measured, state="not run", note=reason)
