"""Number formats: the names that users write, and how safetensors, torch and numpy spell them. Loads no torch."""

from dataclasses import dataclass
from typing import Literal

WeightsDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "w8a8", "w4a16", "nvfp4"]
"""Formats that weights are served in."""
CacheDtype = Literal["fp32", "bf16", "fp16", "fp8", "int8"]
"""Formats that an engine keeps the attention cache and the Mamba state in."""
StoredDtype = Literal["fp32", "bf16", "fp16"]
"""Formats that a pruned checkpoint can be written in."""
TrainedDtype = Literal["fp32", "bf16"]
"""Formats that weights are trained in."""
ProductDtype = Literal["fp32", "bf16", "fp8"]
"""Formats that a training multiplies blocks' matrices in."""
EvaluatedDtype = Literal["fp32", "bf16"]
"""Formats that models are held in while they are evaluated."""

# What cuBLAS asks of both sides of a matrix of fp8, and of the tokens that weights' gradients are summed over.
FLOAT8_MULTIPLE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """A number format.

    Attributes:
        bits: Bits of a number.
        safetensors: Name in the header of a safetensors file; None where the file format has none.
        torch: Name in torch and in `config.json`.
        view: How numpy views the bytes in a file. It has no bf16, which is the upper half of an fp32.
    """

    bits: int
    safetensors: str | None = None
    torch: str | None = None
    view: str | None = None


DTYPES = {
    "fp64": Dtype(bits=64, safetensors="F64", torch="float64", view="<f8"),
    "int64": Dtype(bits=64, safetensors="I64", torch="int64", view="<i8"),
    "fp32": Dtype(bits=32, safetensors="F32", torch="float32", view="<f4"),
    "int32": Dtype(bits=32, safetensors="I32", torch="int32", view="<i4"),
    "fp16": Dtype(bits=16, safetensors="F16", torch="float16", view="<f2"),
    "bf16": Dtype(bits=16, safetensors="BF16", torch="bfloat16", view="<u2"),
    "fp8": Dtype(bits=8, safetensors="F8_E4M3", torch="float8_e4m3fn"),
    "fp8_e5m2": Dtype(bits=8, safetensors="F8_E5M2", torch="float8_e5m2"),
    "int8": Dtype(bits=8, safetensors="I8", torch="int8", view="|i1"),
    "uint8": Dtype(bits=8, safetensors="U8", torch="uint8", view="|u1"),
    "int4": Dtype(bits=4),
}

# safetensors name -> bytes of a number; the formats that a header may name
STORED_BYTES = {dtype.safetensors: dtype.bits // 8 for dtype in DTYPES.values() if dtype.safetensors is not None}
# safetensors name -> numpy's view, of floating-point formats that are computed with, and of integers
_VIEWS = {dtype.safetensors: dtype.view for dtype in DTYPES.values() if dtype.safetensors and dtype.view}
FLOAT_VIEWS = {name: view for name, view in _VIEWS.items() if "F" in name}
INTEGER_VIEWS = {name: view for name, view in _VIEWS.items() if "F" not in name}
# bytes of a number -> numpy's view of its bare bits
WORD_VIEWS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def find_dtype(spelling: str) -> str | None:
    """The name in `DTYPES` of a format by any of its spellings; None for one that is not there.

    >>> find_dtype("BF16"), find_dtype("bfloat16"), find_dtype("bf16"), find_dtype("auto")
    ('bf16', 'bf16', 'bf16', None)
    """
    return next((name for name, dtype in DTYPES.items() if spelling in (name, dtype.safetensors, dtype.torch)), None)


def dtype_bytes(spelling: str) -> int:
    """Bytes of a number of a format by any of its spellings; not for formats of less than a byte.

    >>> dtype_bytes("bf16"), dtype_bytes("float32")
    (2, 4)
    """
    name = find_dtype(spelling)
    assert name is not None, f"no number format is spelled {spelling}"
    return DTYPES[name].bits // 8
