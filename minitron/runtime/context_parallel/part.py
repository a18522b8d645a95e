"""A process's part of each sequence: consecutive tokens, and the processes that hold the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from minitron.distributed import ContextGroup
from minitron.errors import MinitronError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """What one process holds of every sequence.

    Attributes:
        group: The processes that hold a sequence together.
        lengths: Tokens of each of their parts, in their order.
    """

    group: ContextGroup
    lengths: tuple[int, ...]

    @property
    def start(self) -> int:
        """Place of the first token in the sequence."""
        return sum(self.lengths[: self.group.rank])

    @property
    def stop(self) -> int:
        """Place behind the last one."""
        return self.start + self.tokens

    @property
    def tokens(self) -> int:
        """Tokens of this part."""
        return self.lengths[self.group.rank]


def part_lengths(tokens: int, parts: int) -> tuple[int, ...]:
    """Tokens of each part: as many for all, and one more for the first ones where that leaves some.

    >>> part_lengths(11, 3)
    (4, 4, 3)
    """
    share, left = divmod(tokens, parts)
    return tuple(share + (place < left) for place in range(parts))


def part_of(group: ContextGroup, tokens: int, *, at_least: Sequence[int] = ()) -> TextPart:
    """The part of sequences of so many tokens that this process holds.

    Args:
        group: The processes that hold a sequence together.
        tokens: Tokens of a whole sequence.
        at_least: What some block reads of the part before: a part must be as long.

    Raises:
        MinitronError: The sequences are too short for as many parts.
    """
    lengths, least = part_lengths(tokens, group.size), max((1, *at_least))
    if min(lengths) < least:
        raise MinitronError(
            f"context_parallel={group.size} must leave each process at least {least} tokens of a sequence, seq_len "
            f"{tokens} leaves {min(lengths)}; take sequences of {least * group.size} or more"
        )
    return TextPart(group=group, lengths=lengths)
