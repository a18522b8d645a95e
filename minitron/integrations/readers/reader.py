"""What a serving reader declares: the keys that it reads of each family, with their spellings, defaults and rules."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from minitron.estimate.serving.reader_names import ReaderName
from minitron.models.shape import HybridShape

Config = Mapping[str, object]
# What a reader takes where a key is left out: a number, a function of the sizes, or None where it cannot do without.
Default = int | Callable[[Mapping[str, int]], int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A reason why a reader does not take a configuration.

    Attributes:
        key: The key of `config.json`.
        rule: What the reader demands of it.
        found: What was found.
        mend: What to do.
        source: Where the reader says so: package or repository, version or commit, file.
    """

    key: str
    rule: str
    found: str
    mend: str
    source: str

    def __str__(self) -> str:
        return f"{self.key} must {self.rule}, {self.found}; {self.mend} ({self.source})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A size that a reader reads.

    Attributes:
        size: The size, by its name here.
        keys: The spellings that the reader knows; the first one that is given counts.
        default: What it takes where none is given; None refuses.
    """

    size: str
    keys: tuple[str, ...]
    default: Default = None


Rule = Callable[[Config, HybridShape, "Family"], Iterable[Refusal]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a reader reads the configurations of one family.

    Attributes:
        source: Where it is read.
        architectures: Names in `architectures` that it knows; empty where it goes by `model_type`.
        reads: Sizes that it reads.
        needs: Other keys that it cannot do without.
        rules: Further rules about keys, one after the other.
        block_widths: Whether it takes a list of FFN widths, with the classes beside the checkpoint.
    """

    source: str
    architectures: tuple[str, ...] = ()
    reads: tuple[Read, ...] = ()
    needs: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    block_widths: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A serving reader.

    Attributes:
        name: Its name on the command line and in recipes.
        version: The version that was read.
        families: `model_type` -> how such configurations are read; those that are not here were not looked at.
        notes: What is not checked, and what to mind, in a line each.
    """

    name: ReaderName
    version: str
    families: Mapping[str, Family]
    notes: tuple[str, ...] = ()


def spelt(*sizes: str) -> tuple[Read, ...]:
    """Sizes that are read under their own names alone, and that cannot be left out."""
    return tuple(Read(size=size, keys=(size,)) for size in sizes)


def defaults(**sizes: Default) -> tuple[Read, ...]:
    """Sizes that are read under their own names alone, with what is taken where they are left out."""
    return tuple(Read(size=size, keys=(size,), default=default) for size, default in sizes.items())
