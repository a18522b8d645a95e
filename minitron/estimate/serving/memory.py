"""Memory model: the bytes that a hybrid model needs at a workload. Pure arithmetic, for one shape or for many at once.

Everything is counted from the family's declarations, on numbers or on numpy arrays of sizes alike, so that a search
over a million shapes and the report on one share the same code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from minitron.estimate.precision import (
    WEIGHT_FORMATS,
    block_tensor_bits,
    input_sharing,
    model_tensor_bits,
    scale_group,
)
from minitron.estimate.serving.cache import cache_bytes
from minitron.estimate.serving.vllm_cache import paged_cache_bytes, workspace_range
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import SizeT
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBytes:
    """Bytes by what they hold."""

    weights_bytes: int
    kv_bytes: int
    ssm_bytes: int
    conv_bytes: int
    workspace_bytes: int
    total_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        parts = (getattr(self, part.name) for part in fields(self) if part.init)
        object.__setattr__(self, "total_bytes", sum(parts))


def memory_bytes(shape: HybridShape, workload: Workload, *, weights_bytes: int | None = None) -> MemoryBytes:
    """Bytes of weights, caches and workspace of one shape.

    By plain accounting the Mamba state is `[sequences, heads, head_dim, state]`, and the convolution state holds the
    `conv_kernel - 1` inputs that vLLM keeps; transformers 5.23 allocates one more.

    Args:
        shape: The shape.
        workload: What is served.
        weights_bytes: Bytes of the weights where they are known, as from a checkpoint's headers; counted when None.
    """
    parts = {name: int(part) for name, part in memory_parts(shape.family, shape.counts, shape.sizes, workload).items()}
    if weights_bytes is not None:
        parts["weights_bytes"] = weights_bytes
    return MemoryBytes(**parts)


def prefix_caching_bytes(shape: HybridShape, workload: Workload) -> int:
    """Bytes that vLLM needs to share prefixes, beyond what it needs without; 0 where the workload has it off."""
    off = workload.changed(engine=workload.engine.model_copy(update={"prefix_caching": False}))
    return memory_bytes(shape, workload).total_bytes - memory_bytes(shape, off).total_bytes


def block_bytes(shape: HybridShape, workload: Workload) -> dict[str, MemoryBytes]:
    """Letter of each kind of block in the shape -> the bytes of one such block, by plain accounting."""
    bits = block_weights_bits(shape.family, shape.counts, shape.sizes, workload.weights_dtype)
    return {
        kind: MemoryBytes(
            weights_bytes=bits[kind] // 8,
            **cache_bytes(shape.family, {kind: 1}, shape.sizes, workload),
            workspace_bytes=0,
        )
        for kind, count in shape.counts.items()
        if count
    }


def memory_parts(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> dict[str, SizeT]:
    """Name of a part of `MemoryBytes` -> its bytes.

    Args:
        family: The model's family.
        counts: Letter of a kind of block -> how many there are.
        sizes: Axis -> size, or an array of sizes that broadcasts against the others.
        workload: What is served.
    """
    caches = cache_bytes if workload.accounting == "plain" else paged_cache_bytes
    return {
        "weights_bytes": model_weights_bytes(family, counts, sizes, workload.weights_dtype),
        **caches(family, counts, sizes, workload),
        "workspace_bytes": workspace_range(family, counts, sizes, workload)[1],
    }


def model_weights_bytes(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], weights_dtype: str
) -> SizeT:
    """Bytes of all weights."""
    weights = WEIGHT_FORMATS[weights_dtype]
    outside = sum(model_tensor_bits(spec, sizes, weights) for spec in family.tensors_outside(sizes))
    bits = block_weights_bits(family, counts, sizes, weights_dtype)
    return (outside + sum(counts[kind] * each for kind, each in bits.items())) // 8  # type: ignore[return-value]


def block_weights_bits(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], weights_dtype: str
) -> dict[str, SizeT]:
    """Letter of each kind of block that there is -> bits of the weights of one such block."""
    weights = WEIGHT_FORMATS[weights_dtype]
    group = scale_group(family, counts, sizes, weights)
    return {
        kind: sum(  # type: ignore[misc]
            block_tensor_bits(spec, sizes, weights, group=group, shares_input=spec.name in input_sharing(family, kind))
            for spec in family.tensors_of(kind, sizes)
        )
        for kind, count in counts.items()
        if count
    }
