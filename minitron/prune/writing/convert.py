"""Raw tensor bytes from one dtype to another, with torch's rounding and without torch's threads.

Every conversion goes through fp32, as torch's do for narrow dtypes; to bf16, which numpy lacks, it rounds to nearest,
ties to even, by adding half of the last kept bit's weight.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from minitron.hybrid.reading import VIEWS

Raw = npt.NDArray[Any]
BF16_NAN = 0x7FC0


def convert(raw: Raw, *, before: str, after: str, scale: float = 1.0) -> Raw:
    """The numbers times a factor, rounded to the dtype they come in, then to the one that is asked for.

    Args:
        raw: Numbers of dtype `before`, viewed as in `VIEWS` (bf16 as uint16).
        before: safetensors name of a dtype of floating point.
        after: The same, of the result.
        scale: Factor in fp32.

    >>> one = np.array([1.0], dtype=np.float32)
    >>> hex(convert(one, before="F32", after="BF16", scale=3.0)[0])
    '0x4040'
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if scale != 1.0:
            raw = _narrow(_widen(raw, before) * np.float32(scale), before)
        return raw if before == after else _narrow(_widen(raw, before), after)


def _widen(raw: Raw, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":
        bits = raw.astype(np.uint32)
        np.left_shift(bits, 16, out=bits)
        return bits.view(np.float32)
    return raw.astype(np.float32)


def _narrow(numbers: npt.NDArray[np.float32], dtype: str) -> Raw:
    if dtype != "BF16":
        return numbers.astype(VIEWS[dtype])
    bits = numbers.view(np.uint32)
    odd = np.right_shift(bits, 16)
    np.bitwise_and(odd, 1, out=odd)
    np.add(odd, 0x7FFF, out=odd)
    np.add(odd, bits, out=odd)
    np.right_shift(odd, 16, out=odd)
    rounded = odd.astype(np.uint16)
    rounded[np.isnan(numbers)] = BF16_NAN
    return rounded
