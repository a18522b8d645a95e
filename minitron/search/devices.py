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
