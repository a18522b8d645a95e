"""Dequantizes stored weights, and checks them against the weights that they were quantized from."""

# R rows, C columns of a weight; its columns meet the activations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.quantized import LAYOUTS
from minitron.checkpoints.weights import open_weights
from minitron.errors import MinitronError
from minitron.models.families.family import Family

Read = Callable[[str], torch.Tensor]

# What 16-bit arithmetic on the way may add to the format's half step, relative to the weight, at 2^-9 a rounding: one
# of fp8's quotient by its scale; three or four where columns are scaled; twice as many where matrices that share a norm
# have their columns' scales averaged and multiplied into it.
QUOTIENT_ROUNDING = {"fp8": 2.0**-8}
COLUMN_ROUNDING = 2.0**-7
FOLDED_ROUNDING = 2.0**-6
# Of w4a16, whose range may be clipped: the least share of a group's largest weight that its scale must reach.
LEAST_CLIP = 0.5
# A matrix is checked this many numbers at a time.
CHUNK_NUMBERS = 2**20
# Of a number with a sign and 3 bits: magnitudes that nvfp4 tells apart (e2m1).
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def dequantized(weights_format: str, stored_RC: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """fp32 [R, C] numbers of a stored weight, AWQ's and SmoothQuant's column scales still in them.

    Args:
        weights_format: The precision of the memory model.
        stored_RC: As stored: fp8, int8 and w8a8 [R, C]; int4 [R / 2, C], rows 2r and 2r + 1 in the low and high half
            byte; nvfp4 [R, C / 2], columns 2c and 2c + 1 so; w4a16 [R, C / 8], column 8c + i in bits 4i to 4i + 3, 8
            above its value.
        scale: fp8 a single one; int8 [R]; w8a8 [R, 1]; the others [R, C / group].
    """
    if weights_format == "fp8":
        return stored_RC.float() * scale.float()
    if weights_format in ("int8", "w8a8"):
        return stored_RC.float() * scale.float().reshape(-1, 1)
    if weights_format == "int4":
        halves = torch.stack([stored_RC & 15, stored_RC >> 4], dim=1).flatten(0, 1).to(torch.int8)
        codes_RC = torch.where(halves > 7, halves - 16, halves).float()
    elif weights_format == "nvfp4":
        halves = torch.stack([stored_RC & 15, stored_RC >> 4], dim=2).flatten(1, 2).long()
        codes_RC = torch.tensor([*E2M1, *(-magnitude for magnitude in E2M1)])[halves]
    else:
        bits = torch.arange(0, 32, 4, dtype=torch.int32)
        codes_RC = ((stored_RC[:, :, None] >> bits & 15) - 8).flatten(1, 2).float()
    return codes_RC * _over_columns(scale, codes_RC.shape[1])


def half_step(weights_format: str, weight_RC: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Half a quantization step of each weight, [R, C] or broadcastable to it: the rounding error within range.

    fp8 is e4m3: 3 bits of mantissa, subnormal below 2^-6. nvfp4 is e2m1: steps of 1/2, of 1 from 2 on, of 2 from 4 on.
    """
    if weights_format == "fp8":
        return torch.maximum(weight_RC.abs() * 2.0**-4, scale.float() * 2.0**-10)
    if weights_format in ("int8", "w8a8"):
        return scale.float().reshape(-1, 1) / 2
    scale_RC = _over_columns(scale, weight_RC.shape[1])
    if weights_format == "nvfp4":
        size_RC = weight_RC.abs() / scale_RC
        return scale_RC * torch.where(size_RC <= 2, 0.25, torch.where(size_RC <= 4, 0.5, 1.0))
    return scale_RC / 2


def stored_scale(weights_format: str, module: str, read: Read) -> torch.Tensor:
    """The scale of a module's stored weight as `dequantized` takes it; nvfp4's have a scale of their own."""
    scale = read(f"{module}.weight_scale")
    return scale.float() * read(f"{module}.weight_scale_2").float() if weights_format == "nvfp4" else scale


def _over_columns(scale: torch.Tensor, columns: int) -> torch.Tensor:
    return scale.float().repeat_interleave(columns // scale.shape[1], dim=1)


def _in_range(weights_format: str, expected_RC: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weight as near as the format's numbers reach; as it is where they must reach further."""
    if weights_format != "w4a16":
        return expected_RC
    scale_RC = _over_columns(scale, expected_RC.shape[1])
    clipped_RC = torch.minimum(torch.maximum(expected_RC, -8 * scale_RC), 7 * scale_RC)
    return torch.where(expected_RC.abs() * LEAST_CLIP <= 7.5 * scale_RC, clipped_RC, expected_RC)


def check_weights(source: Checkpoint, written: Checkpoint) -> float:
    """Checks that stored weights are within half a quantization step of the source's and all other tensors are equal.

    The source's tensors are taken in the 16-bit type of the unquantized ones.

    Returns:
        The largest distance, in half steps; above 1 by what 16-bit arithmetic adds.

    Raises:
        MinitronError: One is further away.
    """
    assert written.weights_format is not None
    largest = 0.0
    with open_both(source, written) as (read_source, read):
        folded = folded_norms(written, read_source, read)
        for name in written.tensors:
            module = name.removesuffix(".weight")
            before = read_source(name)
            if not written.is_quantized(name):
                found = read(name)
                if name not in folded.values() and not torch.equal(before.to(found.dtype), found):
                    raise MinitronError(f"{name} is not quantized and must be what it was, it differs")
                continue
            scale = stored_scale(written.weights_format, module, read)
            columns_C = column_scales(module, written, read, read_source, folded)
            rounding = QUOTIENT_ROUNDING.get(written.weights_format, 0.0)
            if columns_C.numel() > 1:
                rounding = FOLDED_ROUNDING if name in folded else COLUMN_ROUNDING
            for rows_RC, stored_RC, row_scale in _some_rows(written.weights_format, before, read(name), scale):
                # The stored weight is the source's divided by what its activations are multiplied with.
                expected_RC = _in_range(written.weights_format, rows_RC.float() / columns_C, row_scale)
                error_RC = (dequantized(written.weights_format, stored_RC, row_scale) - expected_RC).abs()
                step_RC = half_step(written.weights_format, expected_RC, row_scale)
                furthest = float((error_RC / step_RC).max())
                if not bool((error_RC <= step_RC * (1 + 1e-4) + expected_RC.abs() * rounding).all()):
                    raise MinitronError(
                        f"{name} must be within half a step of the source's weight, it is {furthest:.3f} half steps "
                        "away"
                    )
                largest = max(largest, furthest)
    return largest


def _some_rows(
    weights_format: str, weight_RC: torch.Tensor, stored: torch.Tensor, scale: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Some rows at a time of a weight, of how it is stored and of its scales, so that their fp32 copies stay small."""
    layout, by_row = LAYOUTS[weights_format], scale.ndim > 0 and len(scale) == len(weight_RC)
    shared = layout.packed if layout.packed_dim == 0 else 1
    rows = shared * max(1, CHUNK_NUMBERS // (shared * weight_RC.shape[1]))
    for first in range(0, len(weight_RC), rows):
        some, packed = slice(first, first + rows), slice(first // shared, (first + rows) // shared)
        yield weight_RC[some], stored[packed], scale[some] if by_row else scale


def meant_tensors(source: Checkpoint, written: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (declared name, fp32 tensor) of an unquantized model that computes what the stored weights mean."""
    assert written.weights_format is not None
    with open_both(source, written) as (read_source, read):
        folded = folded_norms(written, read_source, read)
        for name in written.tensors:
            module = name.removesuffix(".weight")
            if name in folded.values():
                yield name, read_source(name).float()
            elif written.is_quantized(name):
                scale = stored_scale(written.weights_format, module, read)
                numbers_RC = dequantized(written.weights_format, read(name), scale)
                yield name, numbers_RC * column_scales(module, written, read, read_source, folded)
            else:
                yield name, read(name).float()


@contextmanager
def open_both(source: Checkpoint, written: Checkpoint) -> Iterator[tuple[Read, Read]]:
    """Readers of the source's tensors, in the 16-bit type that they were quantized from, and of the stored ones."""
    with open_weights(source) as read_source, open_weights(written) as read:
        dtype = read(written.shape.head_tensor).dtype

        def before(name: str) -> torch.Tensor:
            kept_wide = written.tensors[name].dtype == "F32"  # as transformers keeps a router's bias
            return read_source(name) if kept_wide else read_source(name).to(dtype)

        yield before, read


def column_scales(
    module: str, written: Checkpoint, read: Read, read_source: Read, folded: Mapping[str, str]
) -> torch.Tensor:
    """[C] what the activations of a weight are multiplied with, a single 1 where they are not."""
    if f"{module}.pre_quant_scale" in written.scales:
        return read(f"{module}.pre_quant_scale").float()
    if f"{module}.weight" in folded:
        norm = folded[f"{module}.weight"]
        before_C, after_C = read_source(norm).float(), read(norm).float()
        return torch.where(before_C == 0, torch.ones_like(before_C), after_C / before_C)
    return torch.ones(())


def folded_norms(written: Checkpoint, read_source: Read, read: Read) -> dict[str, str]:
    """Name of a weight -> the norm that its column scales are folded into, where they are."""
    family: Family = written.shape.family
    folded: dict[str, str] = {}
    for layer, kind in enumerate(written.shape.hybrid_override_pattern):
        prefix = family.block_prefix.format(layer=layer)
        for point in (point for points in family.hook_points.values() for point in points.get(kind, ())):
            if point.side != "output" or len(point.readers) < 2:
                continue
            norm = f"{prefix}{point.module}.weight"
            if not torch.equal(read_source(norm), read(norm)):
                folded |= {prefix + reader: norm for reader in point.readers}
    return folded
