"""Units of memory, and numbers of bytes as a person reads them."""

KIB, MIB, GIB = 2**10, 2**20, 2**30


def gib_to_bytes(gib: float) -> int:
    """Whole bytes of a number of GiB.

    >>> gib_to_bytes(0.5)
    536870912
    """
    return int(gib * GIB)


def format_bytes(count: float, *, digits: int = 3) -> str:
    """Bytes in GiB, or in MiB below one GiB.

    >>> format_bytes(3 * GIB), format_bytes(10 * MIB, digits=1)
    ('3.000 GiB', '10.0 MiB')
    """
    unit, name = (GIB, "GiB") if abs(count) >= GIB else (MIB, "MiB")
    return f"{count / unit:.{digits}f} {name}"
