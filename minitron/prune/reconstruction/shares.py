"""What one of several processes does of a repair: its batches of the samples, and its rows of a weight."""

# B samples, D rows of a weight, C its columns

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from minitron.data.samples import Samples
from minitron.distributed import Ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The batches of one process among those of all.

    Attributes:
        ranks: The processes.
        batches: What this process has, none of them empty.
        numbers: Of each of them, which of all batches it is, or is a part of; ascending.
        num_tokens: Counted tokens of each of all batches.
    """

    ranks: Ranks
    batches: Sequence[Samples]
    numbers: Sequence[int]
    num_tokens: Sequence[int]


def share_batches(samples: Samples, batch_size: int, ranks: Ranks, *, by: Literal["batch", "sample"]) -> Share:
    """Shares calibration samples out; the batches of all processes together are those of one that is alone.

    Args:
        samples: All samples, the same in every process.
        batch_size: Samples in a batch.
        ranks: The processes.
        by: `batch`: each takes whole batches in turn, whose sums are then those of one process, bit for bit. `sample`:
            each takes its samples of every batch, so that all work on a batch together.
    """
    batches = samples.batches(batch_size)
    if by == "batch":
        found = {number: batches[number] for number in range(ranks.rank, len(batches), ranks.world_size)}
    else:
        parts = {number: batch.share(ranks.rank, ranks.world_size) for number, batch in enumerate(batches)}
        found = {number: part for number, part in parts.items() if len(part)}
    busy = min(ranks.world_size, len(batches) if by == "batch" else len(batches[0]))
    if ranks.is_main and busy < ranks.world_size:
        logger.warning(
            "%d of %d processes have no calibration text to repair on, %d samples in batches of %d: %s",
            ranks.world_size - busy,
            ranks.world_size,
            len(samples),
            batch_size,
            "take more samples or smaller batches" if by == "batch" else "take larger batches",
        )
    return Share(
        ranks=ranks,
        batches=list(found.values()),
        numbers=list(found),
        num_tokens=[batch.num_tokens for batch in batches],
    )


def solve_by_rows(
    solve: Callable[[slice], torch.Tensor], shape: torch.Size, ranks: Ranks, *, most: int | None = None
) -> torch.Tensor:
    """[D, C] fp32 weight whose rows are solved for by the processes in turn, the same bits in each of them.

    Args:
        solve: Some rows -> what they are to be, in fp32 on the CPU.
        shape: Of the weight.
        ranks: The processes.
        most: Rows that one solves for at once; as many as there are when None.
    """
    rows, columns = shape
    size = min(most or rows, math.ceil(rows / ranks.world_size))
    parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    found: list[torch.Tensor] = []
    for first in range(0, len(parts), ranks.world_size):
        turn = parts[first : first + ranks.world_size]
        own = solve(turn[ranks.rank]) if ranks.rank < len(turn) else None
        for owner, part in enumerate(turn):
            empty = torch.empty(part.stop - part.start, columns)
            found.append(ranks.spread(own if own is not None and owner == ranks.rank else empty, owner))
    return torch.cat(found)
