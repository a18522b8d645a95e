"""Tensors beside the model that only some readers load: the layers that predict further tokens (`mtp.*`).

transformers leaves them out; vLLM drafts with them. They share the model's hidden channels and, by its configuration,
the widths of its blocks, so pruning has to cut them too, or leave them out on purpose.
"""

import re
from collections.abc import Iterable, Iterator

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.errors import CheckpointError
from minitron.models.axes import TensorSpec, kept_positions, tensor_shape
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.models.slicing import TensorCut


def extra_specs(shape: HybridShape, names: Iterable[str]) -> dict[str, TensorSpec]:
    """The declaration of every extra tensor by its name on disk.

    Raises:
        CheckpointError: A tensor is not declared.
    """
    family = shape.family
    declared = [*family.extra_tensors, *(spec for specs in family.block_tensors.values() for spec in specs)]
    found = {}
    for name in names:
        inside = re.sub(rf"^{re.escape(family.extra_prefix)}\d+\.", "", name)
        matching = (spec for spec in declared if spec.exists(shape.sizes) and _matches(spec, inside))
        spec = next(matching, None)
        if spec is None or inside == name:
            raise CheckpointError(f"a tensor beside the model must be one that is declared, got {name}")
        found[name] = spec
    return found


def extra_cuts(source: Checkpoint, keep: Keep) -> Iterator[TensorCut]:
    """The cuts of a checkpoint's extra tensors: hidden channels go as the model's do, all else stays.

    Raises:
        CheckpointError: A tensor is not declared or has another shape, or an axis that is ranked block by block is cut,
            of which nothing is known in the extra layers.
    """
    shape = source.shape
    target, inside = keep.shape(shape), keep.at(None)
    changed = {
        name
        for name, axis in shape.family.axes.items()
        if axis.blocks is not None and shape.sizes[name] != target.sizes[name]
    }
    for name, spec in extra_specs(shape, source.extras).items():
        before = tensor_shape(spec, shape.sizes)
        if source.extras[name].shape != before:
            raise CheckpointError(f"{name} must have the shape {before}, it has {source.extras[name].shape}")
        if spec.axes() & changed:
            raise CheckpointError(
                f"{sorted(spec.axes() & changed)[0]} cannot be cut in {name}, of which there are no scores; "
                "leave the layers that predict further tokens out with --drop-mtp"
            )
        yield TensorCut(
            name=name,
            source=name,
            before=before,
            kept=tuple(kept_positions(dim, shape.sizes, inside) for dim in spec.dims),
        )


def _matches(spec: TensorSpec, name: str) -> bool:
    if spec.stacked is None:
        return spec.name == name
    return re.fullmatch(re.escape(spec.name).replace(re.escape("{}"), r"\d+"), name) is not None
