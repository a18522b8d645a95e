"""Device profiles: the memory that a process can see on a GPU."""

# Visible memory in GiB as torch.cuda reports it, below the nominal size. Source of a10g: the "total capacity" in
# torch's out-of-memory messages on EC2 g5 instances; nvidia-smi shows 22.49 GiB.
VISIBLE_GIB = {"a10g": 22.06}


def visible_bytes(gpu: str) -> int:
    """Bytes that a process can see on a GPU.

    >>> visible_bytes("a10g")
    23686744637

    Raises:
        ValueError: The GPU has no profile.
    """
    if gpu not in VISIBLE_GIB:
        raise ValueError(f"gpu must be one of {', '.join(VISIBLE_GIB)}, got {gpu!r}; or give the budget in GiB")
    return int(VISIBLE_GIB[gpu] * 2**30)


def usable_bytes(memory_bytes: int, *, utilization: float, reserved_gib: float) -> int:
    """The budget that is left of a memory after the engine's buffer and what is set aside for others.

    Source: arXiv 2508.14444 (5% buffer, 1.3 GiB for a vision encoder on an A10G).

    Raises:
        ValueError: The share is not above 0 and at most 1, or nothing is left.
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization must be above 0 and at most 1, got {utilization}")
    usable = int(memory_bytes * utilization - reserved_gib * 2**30)
    if usable <= 0:
        raise ValueError(f"the budget must leave memory for the model, {memory_bytes:,} bytes leave {usable:,}")
    return usable
