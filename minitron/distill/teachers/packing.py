"""Packs token ids into as many bits as a vocabulary needs."""

# N tokens, K ids a token, W bytes a packed token

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from minitron.errors import MinitronError

# An id and the bits before it in its first byte must fit 32 bits, and a tail of 1 - 1/V must not round to 1 in fp16.
MOST_ID_BITS = 24


def id_bits(vocab_size: int) -> int:
    """Bits of a token id.

    Raises:
        MinitronError: The vocabulary has no choice to make, or more ids than 24 bits tell apart.

    >>> id_bits(131072), id_bits(131073)
    (17, 18)
    """
    if not 2 <= vocab_size <= 2**MOST_ID_BITS:
        raise MinitronError(f"vocab_size must be from 2 to 2^{MOST_ID_BITS} for a teacher's cache, got {vocab_size}")
    return (vocab_size - 1).bit_length()


def packed_bytes(top_k: int, bits: int) -> int:
    """Bytes of a token's packed ids, W.

    >>> packed_bytes(64, 17)
    136
    """
    return (top_k * bits + 7) // 8


def pack_ids(ids_NK: npt.NDArray[np.integer], bits: int) -> npt.NDArray[np.uint8]:
    """Bytes [N, W]: bit i of a token's k-th id, from the lowest, is bit k * bits + i of its bytes, from the lowest.

    The unused bits of a token's last byte are 0.

    >>> pack_ids(np.array([[1, 2, 3]]), 4)
    array([[33,  3]], dtype=uint8)
    """
    tokens, top_k = ids_NK.shape
    width = packed_bytes(top_k, bits)
    packed_NW = np.zeros((tokens, width), dtype=np.uint8)
    for ids, shift, columns in _phases(top_k, bits):
        shifted = ids_NK[:, ids].astype(np.uint32) << np.uint32(shift)
        for number, column in enumerate(columns):
            packed_NW[:, column] |= (shifted >> np.uint32(8 * number)).astype(np.uint8)
    return packed_NW


def unpack_ids(packed_NW: npt.NDArray[np.uint8], bits: int, top_k: int) -> npt.NDArray[np.int32]:
    """Ids [N, K] of what `pack_ids` made."""
    ids_NK = np.empty((len(packed_NW), top_k), dtype=np.int32)
    for ids, shift, columns in _phases(top_k, bits):
        shifted = np.zeros((len(packed_NW), len(range(top_k)[ids])), dtype=np.uint32)
        for number, column in enumerate(columns):
            shifted |= packed_NW[:, column].astype(np.uint32) << np.uint32(8 * number)
        ids_NK[:, ids] = (shifted >> np.uint32(shift)) & np.uint32(2**bits - 1)
    return ids_NK


def _phases(top_k: int, bits: int) -> Iterator[tuple[slice, int, list[slice]]]:
    # Eight ids take whole bytes, so every eighth id begins at the same bit of a byte, `bits` bytes further on: one
    # strided operation a byte does them all.
    for phase in range(min(8, top_k)):
        count = len(range(phase, top_k, 8))
        first, shift = divmod(phase * bits, 8)
        touched = (shift + bits + 7) // 8
        starts = (first + number for number in range(touched))
        yield slice(phase, None, 8), shift, [slice(at, at + (count - 1) * bits + 1, bits) for at in starts]
