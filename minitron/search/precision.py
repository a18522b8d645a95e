"""Precisions: bits an element, and what a quantised weight carries beside its elements."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minitron.hybrid.axes import SizeT, TensorSpec, dim_size, stack_size, tensor_numel

CACHE_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the matrices of the blocks are stored.

    Attributes:
        bits: Bits an element.
        scale_bits: Bits of one scale; 0 where there are none.
        scale_per: What shares one scale: the whole matrix, a row of it, or a run of `group` elements of a row.
        group: Length of such a run.
    """

    bits: int
    scale_bits: int = 0
    scale_per: Literal["matrix", "row", "group"] = "matrix"
    group: int = 0

    @property
    def is_quantised(self) -> bool:
        """Whether only the blocks' matrices are stored so, and all else in 16 bits."""
        return self.scale_bits > 0


# Sources of the quantised layouts: fp8 with one fp32 scale a matrix and int4 with a 16-bit scale for 128 weights
# (AWQ, arXiv 2306.00978) as ModelOpt writes them; int8 with a 16-bit scale a row (arXiv 2208.07339).
WEIGHT_FORMATS = {
    "fp32": WeightFormat(bits=32),
    "bf16": WeightFormat(bits=16),
    "fp16": WeightFormat(bits=16),
    "fp8": WeightFormat(bits=8, scale_bits=32, scale_per="matrix"),
    "int8": WeightFormat(bits=8, scale_bits=16, scale_per="row"),
    "int4": WeightFormat(bits=4, scale_bits=16, scale_per="group", group=128),
}


def block_tensor_bits(spec: TensorSpec, sizes: Mapping[str, SizeT], weights: WeightFormat) -> SizeT:
    """Bits of one tensor of a block, or of a whole stack, scales included.

    Quantisation takes the matrices; norms, convolutions and per-head numbers keep 16 bits, as in engines.
    """
    numel = tensor_numel(spec, sizes)
    if not weights.is_quantised:
        return numel * weights.bits
    if len(spec.dims) != 2:
        return numel * 16
    rows, columns = (dim_size(dim, sizes) for dim in spec.dims)
    matrices = stack_size(spec, sizes)
    rows = rows * matrices
    if weights.scale_per == "row":
        return numel * weights.bits + rows * weights.scale_bits
    if weights.scale_per == "group":
        return numel * weights.bits + rows * -(-columns // weights.group) * weights.scale_bits
    return numel * weights.bits + matrices * weights.scale_bits


def model_tensor_bits(spec: TensorSpec, sizes: Mapping[str, SizeT], weights: WeightFormat) -> SizeT:
    """Bits of a tensor outside the blocks; quantisation leaves embeddings, head and final norm in 16 bits."""
    return tensor_numel(spec, sizes) * (16 if weights.is_quantised else weights.bits)
