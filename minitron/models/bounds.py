"""The largest sizes that a shape may have: far beyond every model, and small enough that nothing counts past 64 bits.

A configuration may come from a stranger. Without bounds a single number makes code that walks all blocks or experts run
for hours, and bytes that are counted in arrays of 64-bit integers wrap around.
"""

from collections.abc import Mapping

from minitron.errors import ShapeError

MOST_BLOCKS = 4096
MOST_EXPERTS = 65_536
MOST_STACKED = 2**20  # experts of all blocks together, each with tensors of its own
LARGEST_SIZE = 2**26  # of every other axis; the largest vocabularies have 2^18 tokens
MOST_PARAMS = 2**53  # of which bits are counted


def check_size(name: str, size: object, *, least: int) -> None:
    """Refuses what is no whole number of at least `least`, or one that no model has.

    Raises:
        ShapeError: The size is one of these.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < least:
        raise ShapeError(f"{name} must be a positive whole number, got {size!r}")
    most = MOST_EXPERTS if name == "n_routed_experts" else LARGEST_SIZE
    if size > most:
        raise ShapeError(f"{name} must be at most {most:,}, got {size!r}")


def check_blocks(blocks: int) -> None:
    """Refuses more blocks than any model has.

    Raises:
        ShapeError: There are.
    """
    if blocks > MOST_BLOCKS:
        raise ShapeError(f"a model must have at most {MOST_BLOCKS:,} blocks, got {blocks!r}")


def check_stacked(sizes: Mapping[str, int], blocks: int) -> None:
    """Refuses more experts in all blocks together than can be looked at one by one.

    Raises:
        ShapeError: There are.
    """
    experts = sizes.get("n_routed_experts", 0) * blocks
    if experts > MOST_STACKED:
        raise ShapeError(f"n_routed_experts of all blocks must be at most {MOST_STACKED:,}, got {experts:,}")


def check_params(params: int) -> None:
    """Refuses more parameters than can be counted.

    Raises:
        ShapeError: There are.
    """
    if params > MOST_PARAMS:
        raise ShapeError(f"a model must have at most {MOST_PARAMS:,} parameters, its sizes give {params:,}")
