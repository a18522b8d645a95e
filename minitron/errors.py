"""What a user can cause: the command line prints these on a line each and exits with 2.

Every other exception is a bug and keeps its traceback. Messages quote what was given, which may come from strangers, so
what a message may be is settled here, once: lines of a bounded length without control characters, and not too many.
"""

MOST_CHARS = 500  # of a line
MOST_FAULTS = 50  # lines of one error
_TAIL_CHARS = 180  # the end of a sentence says how to mend it
_CUT = " [...] "


class MinitronError(ValueError):
    r"""Something that was given cannot be used. A message says the rule, what was found, and a remedy.

    Args:
        faults: A sentence for each fault. Line breaks in one become spaces, what cannot be printed is escaped, and the
            middle of a long one is left out.
        command: A command that mends it, told whole behind the last sentence: it must hold nothing of a stranger's.

    >>> print(MinitronError("one fault", "another, of what is named: a\nb\x1b[31m"))
    one fault
    another, of what is named: a b\x1b[31m
    """

    def __init__(self, *faults: object, command: str = "") -> None:
        told = [one_line(str(fault)) for fault in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            told[-1] = f"and {len(faults) - MOST_FAULTS + 1} more faults"
        super().__init__(*told)
        self.command = command

    def __str__(self) -> str:
        return "\n".join(self.args) + self.command


class RecipeError(MinitronError):
    """A recipe or one of its settings cannot be used; the message has one line for each fault."""


class CheckpointError(MinitronError):
    """A checkpoint folder, its configuration or one of its tensors cannot be used."""


class ShapeError(MinitronError):
    """A shape, a plan or an axis that a model family does not allow."""


class DataError(MinitronError):
    """Text, problems or token ids that cannot be used."""


class ArtifactError(MinitronError):
    """A folder that cannot be written or taken as it is: in the way, in use, of other inputs, or out of room."""


class NotFiniteError(MinitronError):
    """What a model computes is NaN or infinite: one of its weights is, or it overflows."""


class BudgetError(MinitronError):
    """A workload, a device or limits that cannot be meant, or that nothing fits."""


def one_line(text: str) -> str:
    r"""A text as a line of a message: short, and of characters that can be printed.

    >>> one_line("two\nlines"), len(one_line("x" * 10**6))
    ('two lines', 500)
    """
    shown = "".join(map(_printable, _shortened(text)))
    return _shortened(shown)


def _shortened(text: str) -> str:
    if len(text) <= MOST_CHARS:
        return text
    return text[: MOST_CHARS - _TAIL_CHARS - len(_CUT)] + _CUT + text[-_TAIL_CHARS:]


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape", "backslashreplace").decode("ascii")
