"""Raw tensor bytes from one dtype to another, with torch's rounding and without torch's threads.

Every conversion between stored dtypes goes through fp32, as torch's do for narrow dtypes; to bf16, which numpy lacks,
it rounds to nearest, ties to even, by adding half of the last kept bit's weight.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from minitron.dtypes import FLOAT_VIEWS

Raw = npt.NDArray[Any]
BF16_NAN = 0x7FC0
BF16_TIE = 0x8000  # the dropped half of an fp32's bits, when it is as far from one bf16 as from the next


def convert(raw: Raw, *, before: str, after: str, scale: float = 1.0, plus: float = 0.0) -> Raw:
    """The numbers times a factor, rounded to the dtype they come in, then to the one that is asked for.

    Args:
        raw: Numbers of dtype `before`, viewed as in `FLOAT_VIEWS` (bf16 as uint16).
        before: safetensors name of a dtype of floating point.
        after: The same, of the result.
        scale: Factor, in fp32; of fp64 numbers in fp64.
        plus: What is scaled is the number plus this, as with the weights of norms that add 1 to them.

    >>> one = np.array([1.0], dtype=np.float32)
    >>> hex(convert(one, before="F32", after="BF16", scale=3.0)[0])
    '0x4040'
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if scale != 1.0:
            wide = raw if before == "F64" else widen(raw, before)
            raw = narrow(_scaled(wide, scale, plus), before)
        return raw if before == after else narrow(widen(raw, before), after)


def widen(raw: Raw, dtype: str, *, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """Raw numbers of a dtype in fp32, written into `out` when given, else a copy; wider ones are rounded."""
    if out is None:
        out = np.empty(raw.shape, dtype=np.float32)
    if dtype == "BF16":
        bits = out.view(np.uint32)
        bits[...] = raw
        np.left_shift(bits, 16, out=bits)
    else:
        out[...] = raw
    return out


def _scaled(numbers: Raw, scale: float, plus: float) -> Raw:
    factor, added = numbers.dtype.type(scale), numbers.dtype.type(plus)
    scaled: Raw = (numbers + added) * factor - added if plus else numbers * factor
    return scaled


def narrow(numbers: npt.NDArray[np.float32], dtype: str) -> Raw:
    """Fp32 numbers as raw ones of a dtype, rounded once."""
    if dtype != "BF16":
        return numbers.astype(FLOAT_VIEWS[dtype])
    bits = numbers.view(np.uint32)
    odd = np.right_shift(bits, 16)
    np.bitwise_and(odd, 1, out=odd)
    np.add(odd, 0x7FFF, out=odd)
    np.add(odd, bits, out=odd)
    np.right_shift(odd, 16, out=odd)
    rounded = odd.astype(np.uint16)
    rounded[np.isnan(numbers)] = BF16_NAN
    return rounded


def narrow_fp64(numbers: npt.NDArray[np.float64], dtype: str) -> Raw:
    """Fp64 numbers as raw ones of a dtype, rounded once: to bf16 as if there were no fp32 between.

    >>> just_above_the_tie = np.array([1 + 2**-8 + 2**-40])
    >>> hex(narrow_fp64(just_above_the_tie, "BF16")[0]), hex(narrow(just_above_the_tie.astype(np.float32), "BF16")[0])
    ('0x3f81', '0x3f80')
    """
    if dtype != "BF16":
        return numbers.astype(FLOAT_VIEWS[dtype])
    halfway = numbers.astype(np.float32)
    bits = halfway.view(np.int32)
    # A second rounding errs only where the first has met a tie; an fp32's neighbor on the right side undoes that.
    ties = np.flatnonzero((bits & 0xFFFF) == BF16_TIE)
    bits[ties] += np.sign(np.abs(numbers[ties]) - np.abs(halfway[ties])).astype(np.int32)
    return narrow(halfway, dtype)
