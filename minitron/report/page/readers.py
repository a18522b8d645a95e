"""What each serving reader says of the student."""

from collections.abc import Mapping, Sequence

from minitron.report.page.parts import Section, Table, missing

TAKES, REFUSES = "takes it", "refuses it"


def readers_section(verdicts: Mapping[str, Sequence[str]] | None, *, about: str, why_not: str) -> Section:
    """A line a reader.

    Args:
        verdicts: Reader, with its version -> why it does not take the student, empty where it does; None where there
            is no student to ask about.
        about: What was looked at.
        why_not: What is missing, where there are no verdicts.
    """
    title = "Serving engines"
    if verdicts is None:
        return Section(name="readers", title=title, parts=(missing(why_not),))
    rows = tuple((reader, REFUSES if refusals else TAKES, "; ".join(refusals)) for reader, refusals in verdicts.items())
    table = Table(columns=("reader", f"says of {about}", "why"), rows=rows)
    return Section(name="readers", title=title, parts=(table,))
