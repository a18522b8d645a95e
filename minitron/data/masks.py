"""Loss masks of packed sequences: the one form in which files, arrays and losses know which tokens count."""

# N sequences, T tokens a sequence, n sequences of a slice

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

TokenSequences: TypeAlias = npt.NDArray[np.int32]
LossMask: TypeAlias = npt.NDArray[np.bool_]


class PackedSequences(Protocol):
    """Token ids [N, T], in memory or in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, T)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | slice, /) -> npt.NDArray[np.integer]:
        """Ids [T] of a sequence, or [n, T] of a slice."""


@runtime_checkable
class MaskedSequences(Protocol):
    """Packed sequences that say which tokens count."""

    def counted(self, index: int | slice, /) -> LossMask | None:
        """Which tokens [T] of a sequence, or [n, T] of a slice, a loss counts as next ones; None when all."""


def loss_mask(sequences_NT: PackedSequences, index: int | slice) -> LossMask | None:
    """Which tokens of a sequence or slice count; None when all, as of a plain array."""
    return sequences_NT.counted(index) if isinstance(sequences_NT, MaskedSequences) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedText:
    """Packed sequences in memory.

    Attributes:
        ids_NT: Token ids.
        counted_NT: Which tokens a loss counts as next ones; None when all.
    """

    ids_NT: TokenSequences
    counted_NT: LossMask | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, T)."""
        return self.ids_NT.shape

    def __len__(self) -> int:
        return len(self.ids_NT)

    def __getitem__(self, index: int | slice) -> npt.NDArray[np.integer]:
        found: npt.NDArray[np.integer] = self.ids_NT[index]
        return found

    def counted(self, index: int | slice) -> LossMask | None:
        """Which tokens of a sequence or slice count; None when all of the text do."""
        return None if self.counted_NT is None else self.counted_NT[index]

    def taken(self, order_N: npt.NDArray[np.int64]) -> "PackedText":
        """The sequences at some positions."""
        counted = None if self.counted_NT is None else self.counted_NT[order_N]
        return PackedText(ids_NT=self.ids_NT[order_N], counted_NT=counted)

    @staticmethod
    def joined(parts: Sequence["PackedText"]) -> "PackedText":
        """Parts one after the other; with a mask where one of them has one."""
        ids_NT = np.concatenate([part.ids_NT for part in parts])
        if all(part.counted_NT is None for part in parts):
            return PackedText(ids_NT=ids_NT)
        return PackedText(ids_NT=ids_NT, counted_NT=np.concatenate([part.all_counted() for part in parts]))

    def all_counted(self) -> LossMask:
        """The mask [N, T], also where all tokens count."""
        return np.ones(self.shape, dtype=bool) if self.counted_NT is None else self.counted_NT
