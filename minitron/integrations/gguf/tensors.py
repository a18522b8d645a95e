"""The tensors of a GGUF file: planned from headers, then read, changed and encoded a few rows at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.reading import fill, read_fp32
from minitron.checkpoints.rounding import narrow
from minitron.dtypes import FLOAT_VIEWS
from minitron.errors import CheckpointError
from minitron.integrations.gguf.family import Fp32, GgufFamily, Rule
from minitron.models.axes import TensorSpec, entry_names

CHUNK_NUMBERS = 2**22  # 16 MiB of fp32
Q8_0_BLOCK = 32  # numbers that share a scale
# Type -> bytes of a block, numbers of a block, and the largest number that it holds.
TYPES = {
    "F32": (4, 1, math.inf),
    "F16": (2, 1, 65504.0),
    "BF16": (2, 1, math.inf),
    "Q8_0": (34, Q8_0_BLOCK, 127 * 65504.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: Its name in the file.
        type: One of `TYPES`.
        shape: Its shape, outermost dim first.
        sources: The stored tensors that it is made of, one after the other.
        paired: Rows of an attention head, where each is reordered as its rule says; 0 where none is.
        rotated: How many of these rows are, the first ones.
        minus_exp: Whether -exp of the stored numbers is written.
        values: The numbers themselves, where they are not stored.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    sources: tuple[StoredTensor, ...] = ()
    paired: int = 0
    rotated: int = 0
    minus_exp: bool = False
    values: Fp32 | None = field(default=None, compare=False)

    @property
    def is_changed(self) -> bool:
        """Whether it holds other numbers than the stored ones, or in another order."""
        return bool(self.paired) or self.minus_exp

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        nbytes, numbers, _ = TYPES[self.type]
        return math.prod(self.shape) // numbers * nbytes


def plan_tensors(checkpoint: Checkpoint, family: GgufFamily, dtype: str | None) -> list[GgufTensor]:
    """Every tensor of the file, in its order.

    Args:
        checkpoint: The checkpoint.
        family: The declarations of its family.
        dtype: Precision of matrices, one of `DTYPES`; as each is stored when None.

    Raises:
        CheckpointError: A tensor is of a number format that is not computed with.
    """
    shape = checkpoint.shape
    asked = None if dtype is None else dtype.upper()
    declared: list[tuple[int | None, TensorSpec]] = [(None, spec) for spec in shape.family.tensors_outside(shape.sizes)]
    for layer, kind in enumerate(shape.hybrid_override_pattern):
        declared += [(layer, spec) for spec in shape.family.tensors_of(kind, shape.sizes)]
    plan = _Plan(checkpoint=checkpoint, family=family, asked=asked)
    planned = [tensor for layer, spec in declared for tensor in plan.tensors_of(layer, spec)]
    factors = family.rope_factors(shape, checkpoint.config)
    if factors is not None:
        planned.append(GgufTensor(name="rope_freqs.weight", type="F32", shape=factors.shape, values=factors))
    return planned


def read_encoded(tensor: GgufTensor, *, numbers: int = CHUNK_NUMBERS) -> Iterator[npt.NDArray[Any]]:
    """A tensor's bytes in the file, in runs of rows of about `numbers` numbers.

    Raises:
        CheckpointError: A number is larger than the type holds, or a source ends while it is read.
    """
    if tensor.values is not None:
        yield tensor.values
    for stored in tensor.sources:
        if stored.dtype == tensor.type and not tensor.is_changed:
            yield from _as_stored(stored, numbers)
            continue
        row = math.prod(stored.shape[1:])
        together = tensor.paired or 1
        most = max(1, numbers // (row * together)) * together
        for first in range(0, stored.shape[0], most):
            rows = read_fp32(stored, first=first, count=min(most, stored.shape[0] - first))
            yield encode(_changed(rows, tensor), tensor)


def _as_stored(stored: StoredTensor, numbers: int) -> Iterator[npt.NDArray[Any]]:
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.start)
        for first in range(0, stored.numel, numbers):
            run = np.empty(min(numbers, stored.numel - first), dtype=FLOAT_VIEWS[stored.dtype])
            fill(file, run)
            yield run


def encode(rows: Fp32, tensor: GgufTensor) -> npt.NDArray[Any]:
    """Rows in the bytes of the tensor's type.

    Raises:
        CheckpointError: A number is larger than the type holds, or is none.
    """
    if tensor.type in ("F32", "BF16"):
        return narrow(rows, tensor.type)
    most, largest = TYPES[tensor.type][2], float(np.abs(rows).max(initial=0))
    if not largest <= most:
        raise CheckpointError(
            f"numbers of {tensor.name} must be at most {most:g} in {tensor.type.lower()}, one is {largest:g}; choose "
            "another dtype"
        )
    if tensor.type == "F16":
        return narrow(rows, "F16")
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    quantized: npt.NDArray[Any] = quantize(rows.reshape(-1, tensor.shape[-1]), GGMLQuantizationType.Q8_0)
    return quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What every tensor of a file is planned from; `asked` is a type."""

    checkpoint: Checkpoint
    family: GgufFamily
    asked: str | None

    def tensors_of(self, layer: int | None, spec: TensorSpec) -> Iterator[GgufTensor]:
        """What a declared tensor becomes."""
        shape = self.checkpoint.shape
        prefix = "" if layer is None else shape.family.block_prefix.format(layer=layer)
        rule = self.family.rule(spec.name, shape)
        stored = [self.checkpoint.stored(prefix + name) for name in entry_names(spec, shape.sizes)]
        for each in stored:
            if each.dtype not in FLOAT_VIEWS:
                raise CheckpointError(
                    f"a tensor must be one of {', '.join(FLOAT_VIEWS)} to be exported, {prefix}{spec.name} in "
                    f"{each.file} is {each.dtype}"
                )
        if spec.stacked is not None and spec.is_whole:
            stored = _cut(stored[0], stored[0].shape[0], stored[0].shape[1:])
        halves = 1 if rule.second is None else 2
        entries = [_cut(each, halves, (each.shape[0] // halves, *each.shape[1:])) for each in stored]
        for name, sources in zip((rule.name, rule.second), zip(*entries, strict=True), strict=False):
            assert name is not None
            dims = _dims(sources[0].shape, rule, shape.n_groups)
            if spec.stacked is not None:
                dims = (len(sources), *dims)
            yield GgufTensor(
                name=name if layer is None else f"blk.{layer}.{name}",
                type=_type(dims, rule, sources[0].dtype, self.asked),
                shape=dims,
                sources=sources,
                paired=shape.head_dim if rule.values == "paired" else 0,
                rotated=self.family.rotated(shape, self.checkpoint.config) if rule.values == "paired" else 0,
                minus_exp=rule.values == "minus_exp",
            )


def _cut(stored: StoredTensor, parts: int, shape: tuple[int, ...]) -> list[StoredTensor]:
    """A stored tensor's numbers in equal runs, each of a shape."""
    nbytes = stored.nbytes // parts
    return [replace(stored, shape=shape, start=stored.start + part * nbytes) for part in range(parts)]


def _dims(stored: tuple[int, ...], rule: Rule, n_groups: int) -> tuple[int, ...]:
    if rule.shape == "squeezed":
        return (stored[0], *stored[2:])
    if rule.shape == "column":
        return (*stored, 1)
    if rule.shape == "groups":
        return (n_groups, stored[0] // n_groups)
    return stored


def _type(dims: tuple[int, ...], rule: Rule, stored: str, asked: str | None) -> str:
    if rule.fp32 or len(dims) == 1:
        return "F32"
    as_stored = stored if stored in TYPES else "F32"  # fp64 has no place in a model file
    if asked == "Q8_0" and dims[-1] % Q8_0_BLOCK:
        return as_stored
    return asked or as_stored


def _changed(rows: Fp32, tensor: GgufTensor) -> Fp32:
    if tensor.minus_exp:
        return -np.exp(rows)
    if tensor.paired:
        heads = rows.reshape(-1, tensor.paired, *rows.shape[1:])
        # [heads, halves, rotated / 2, columns]: row i of the first half comes before row i of the second.
        halves = heads[:, : tensor.rotated].reshape(len(heads), 2, tensor.rotated // 2, *rows.shape[1:])
        turned = halves.swapaxes(1, 2).reshape(len(heads), tensor.rotated, *rows.shape[1:])
        return np.concatenate([turned, heads[:, tensor.rotated :]], axis=1).reshape(rows.shape)
    return rows
