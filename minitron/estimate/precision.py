"""Weight formats: bits of a number, and the scales that quantized weights carry."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minitron.models.axes import SizeT, TensorSpec, dim_size, stack_size, tensor_numel
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the matrices of the blocks are stored.

    Attributes:
        bits: Bits of a number.
        scale_bits: Bits of one scale; 0 where there are none.
        scale_per: What shares one scale: the whole matrix, a row of it, or a run of elements of a row.
        groups: Lengths that such a run may have, the same in the whole model: the first one that divides the columns
            of every matrix.
        matrix_bits: Bits beside them for each matrix: the scale of its activations, a scale of its scales, its shape.
        column_bits: Bits for each column: the scale that its activation is multiplied with. It is folded into the
            norm, and takes nothing, where several matrices read the same activations.
    """

    bits: int
    scale_bits: int = 0
    scale_per: Literal["matrix", "row", "group"] = "matrix"
    groups: tuple[int, ...] = ()
    matrix_bits: int = 0
    column_bits: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether the format is of the blocks' matrices alone, and all else is in 16 bits."""
        return self.scale_bits > 0


# fp8, int8, int4 and nvfp4 are as ModelOpt 0.47 writes them: scales in fp32, one a matrix for fp8, one a row for int8
# (without SmoothQuant), one for 128 weights of a row for int4 (AWQ, arXiv 2306.00978), one more for the activations
# of fp8 and int8, and the 16-bit scales of AWQ's columns; for nvfp4 an fp8 scale for 16 weights, and an fp32 scale of
# those scales and of the activations. w8a8 and w4a16 are as minitron/integrations/compressed_tensors writes them: an
# fp32 scale a row; a 16-bit scale a group, and the matrix's two dims in 64 bits each.
WEIGHT_FORMATS = {
    "fp32": WeightFormat(bits=32),
    "bf16": WeightFormat(bits=16),
    "fp16": WeightFormat(bits=16),
    "fp8": WeightFormat(bits=8, scale_bits=32, scale_per="matrix", matrix_bits=32),
    "int8": WeightFormat(bits=8, scale_bits=32, scale_per="row", matrix_bits=32),
    "int4": WeightFormat(bits=4, scale_bits=32, scale_per="group", groups=(128,), column_bits=16),
    "w8a8": WeightFormat(bits=8, scale_bits=32, scale_per="row"),
    "w4a16": WeightFormat(bits=4, scale_bits=16, scale_per="group", groups=(128, 64, 32), matrix_bits=128),
    "nvfp4": WeightFormat(bits=4, scale_bits=8, scale_per="group", groups=(16,), matrix_bits=64),
}


def is_quantizable(spec: TensorSpec) -> bool:
    """Whether quantization takes a tensor of a block: the matrices, but for those that choose experts."""
    return len(spec.dims) == 2 and not spec.routes


def quantized_matrices(shape: HybridShape) -> dict[str, tuple[int, int]]:
    """Name on disk -> rows and columns of every matrix that quantization takes."""
    outside = {spec.name for spec in shape.family.model_tensors}
    found = {name for name, spec in shape.tensors().items() if name not in outside and is_quantizable(spec)}
    shapes = {name: dims for name, dims in shape.tensor_shapes().items() if name in found}
    return {name: (rows, columns) for name, (rows, columns) in shapes.items()}


def scale_group(family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], weights: WeightFormat) -> SizeT:
    """Length of a run of weights that shares a scale; 0 where scales are of rows or matrices.

    Engines take one length for the whole model. Where none divides the columns of every matrix it is the shortest.

    Args:
        family: The model's family.
        counts: Letter of a kind of block -> how many there are.
        sizes: Axis -> size, or an array of sizes.
        weights: How matrices are stored.
    """
    if not weights.groups:
        return 0  # type: ignore[return-value]
    specs = [spec for kind, count in counts.items() if count for spec in family.tensors_of(kind, sizes)]
    columns = [dim_size(spec.dims[1], sizes) for spec in specs if is_quantizable(spec)]
    group: SizeT = weights.groups[-1]  # type: ignore[assignment]
    for longer in reversed(weights.groups[:-1]):
        group = group + math.prod(each % longer == 0 for each in columns) * (longer - group)
    return group


def block_tensor_bits(
    spec: TensorSpec,
    sizes: Mapping[str, SizeT],
    weights: WeightFormat,
    *,
    group: SizeT,
    shares_input: bool = False,
) -> SizeT:
    """Bits of one tensor of a block, or of a whole stack, scales included.

    Quantization takes the matrices; norms, convolutions and per-head numbers keep 16 bits, as in engines, and what is
    added to the scores of experts 32.

    Args:
        spec: The tensor.
        sizes: Axis -> size, or an array of sizes.
        weights: How matrices are stored.
        group: The model's `scale_group`.
        shares_input: Whether other matrices read the same activations.
    """
    numel = tensor_numel(spec, sizes)
    if not weights.is_quantized:
        return numel * weights.bits
    if not is_quantizable(spec):
        return numel * (32 if spec.routes and len(spec.dims) == 1 else 16)
    rows, columns = (dim_size(dim, sizes) for dim in spec.dims)
    matrices = stack_size(spec, sizes)
    rows = rows * matrices
    bits = numel * weights.bits + matrices * weights.matrix_bits
    bits = bits + (0 if shares_input else matrices * columns * weights.column_bits)
    if weights.scale_per == "row":
        return bits + rows * weights.scale_bits
    if weights.scale_per == "group":
        groups: SizeT = -(-columns // group)
        return bits + rows * groups * weights.scale_bits
    return bits + matrices * weights.scale_bits


def input_sharing(family: Family, kind: str) -> frozenset[str]:
    """Names inside a block of the matrices that read the same activations as another one."""
    readers = [point.readers for points in family.hook_points.values() for point in points.get(kind, ())]
    return frozenset(name for names in readers if len(names) > 1 for name in names)


def model_tensor_bits(spec: TensorSpec, sizes: Mapping[str, SizeT], weights: WeightFormat) -> SizeT:
    """Bits of a tensor outside the blocks; quantization leaves embeddings, head and final norm in 16 bits."""
    return tensor_numel(spec, sizes) * (16 if weights.is_quantized else weights.bits)
