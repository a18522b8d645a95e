"""Weight formats: bits of a number, and the scales that quantized weights carry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minitron.models.axes import SizeT, TensorSpec, dim_size, stack_size, tensor_numel
from minitron.models.families.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the matrices of the blocks are stored.

    Attributes:
        bits: Bits of a number.
        scale_bits: Bits of one scale; 0 where there are none.
        scale_per: What shares one scale: the whole matrix, a row of it, or a run of `group` elements of a row.
        group: Length of such a run.
        matrix_bits: Bits beside them for each matrix: the scale of its activations.
        column_bits: Bits for each column: the scale that its activation is multiplied with. It is folded into the
            norm, and takes nothing, where several matrices read the same activations.
    """

    bits: int
    scale_bits: int = 0
    scale_per: Literal["matrix", "row", "group"] = "matrix"
    group: int = 0
    matrix_bits: int = 0
    column_bits: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether the format is of the blocks' matrices alone, and all else is in 16 bits."""
        return self.scale_bits > 0


# The quantized layouts are those that ModelOpt 0.47 writes: scales in fp32, one a matrix for fp8, one a row for int8
# (without SmoothQuant), one for 128 weights of a row for int4 (AWQ, arXiv 2306.00978), one more for the activations
# of fp8 and int8, and the 16-bit scales of AWQ's columns.
WEIGHT_FORMATS = {
    "fp32": WeightFormat(bits=32),
    "bf16": WeightFormat(bits=16),
    "fp16": WeightFormat(bits=16),
    "fp8": WeightFormat(bits=8, scale_bits=32, scale_per="matrix", matrix_bits=32),
    "int8": WeightFormat(bits=8, scale_bits=32, scale_per="row", matrix_bits=32),
    "int4": WeightFormat(bits=4, scale_bits=32, scale_per="group", group=128, column_bits=16),
}


def block_tensor_bits(
    spec: TensorSpec, sizes: Mapping[str, SizeT], weights: WeightFormat, *, shares_input: bool = False
) -> SizeT:
    """Bits of one tensor of a block, or of a whole stack, scales included.

    Quantization takes the matrices; norms, convolutions and per-head numbers keep 16 bits, as in engines.

    Args:
        spec: The tensor.
        sizes: Axis -> size, or an array of sizes.
        weights: How matrices are stored.
        shares_input: Whether other matrices read the same activations.
    """
    numel = tensor_numel(spec, sizes)
    if not weights.is_quantized:
        return numel * weights.bits
    if len(spec.dims) != 2:
        return numel * 16
    rows, columns = (dim_size(dim, sizes) for dim in spec.dims)
    matrices = stack_size(spec, sizes)
    rows = rows * matrices
    bits = numel * weights.bits + matrices * weights.matrix_bits
    bits = bits + (0 if shares_input else matrices * columns * weights.column_bits)
    if weights.scale_per == "row":
        return bits + rows * weights.scale_bits
    if weights.scale_per == "group":
        return bits + rows * -(-columns // weights.group) * weights.scale_bits
    return bits + matrices * weights.scale_bits


def input_sharing(family: Family, kind: str) -> frozenset[str]:
    """Names inside a block of the matrices that read the same activations as another one."""
    readers = [point.readers for points in family.hook_points.values() for point in points.get(kind, ())]
    return frozenset(name for names in readers if len(names) > 1 for name in names)


def model_tensor_bits(spec: TensorSpec, sizes: Mapping[str, SizeT], weights: WeightFormat) -> SizeT:
    """Bits of a tensor outside the blocks; quantization leaves embeddings, head and final norm in 16 bits."""
    return tensor_numel(spec, sizes) * (16 if weights.is_quantized else weights.bits)
