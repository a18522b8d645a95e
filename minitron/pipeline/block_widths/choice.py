"""The FFN widths of blocks whose measured costs are together the least, at a given mean; costs are taken to add up."""

# W widths

import logging
from collections.abc import Sequence

import torch

from minitron.distributed import Ranks
from minitron.pipeline.block_widths.costs import WidthCosts
from minitron.progress import track
from minitron.search.allocation import allocate

logger = logging.getLogger(__name__)


def measure_block_widths(
    costs: WidthCosts, layers: Sequence[int], width: int, *, most: int, steps: int, ranks: Ranks
) -> list[int]:
    """The widths of blocks, in their order, of the least total cost at a given mean.

    Several processes measure blocks in turn and find the same widths, those of one process.

    Args:
        costs: Measures them, in this process.
        layers: The blocks.
        width: The mean width.
        most: The width that the blocks have.
        steps: How many equal steps a width is chosen from; the mean is one of the choices, too.
        ranks: The processes.
    """
    widths = sorted({width, *(most * step // steps for step in range(1, steps + 1))})
    mine = layers[ranks.rank :: ranks.world_size]
    found = [costs.of_block(layer, widths) for layer in track(mine, "block widths", total=len(mine))]
    gathered = [one["costs"].tolist() for one in ranks.gather({"costs": torch.tensor(found, dtype=torch.float64)})]
    measured = [gathered[at % ranks.world_size][at // ranks.world_size] for at in range(len(layers))]
    chosen = choose_widths(measured, widths, width)
    for layer, own, cost_W in zip(layers, chosen, measured, strict=True):
        shown = ", ".join(f"{each}: {cost:.4f}" for each, cost in zip(widths, cost_W, strict=True))
        logger.info("block %d: FFN width %d; KL of a width alone: %s", layer, own, shown)
    return chosen


def choose_widths(costs: Sequence[Sequence[float]], widths: Sequence[int], mean: int) -> list[int]:
    """The cheapest widths of blocks whose mean is exactly the given one.

    What the cheapest choice leaves over goes to the widest blocks that have room.

    Args:
        costs: Block by block, of each width.
        widths: The choices, ascending.
        mean: The mean, at most the last of them.

    >>> choose_widths([[9.0, 1.0, 0.0], [0.2, 0.1, 0.0]], [1, 2, 3], 2)
    [3, 1]
    """
    found = allocate(costs, [widths] * len(costs), mean * len(costs))
    chosen = [widths[choice] for choice in found.choices]
    left = mean * len(costs) - sum(chosen)
    for block in sorted(range(len(costs)), key=lambda block: -chosen[block]):
        added = min(left, widths[-1] - chosen[block])
        chosen[block], left = chosen[block] + added, left - added
    return chosen
