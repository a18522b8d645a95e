"""The same model with units put out of action where they are: what a cut model must compute."""

# B samples, T tokens, N tokens, D hidden, E experts

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.models.axes import Indices, TensorSpec, dim_size, entry_names, kept_positions
from minitron.models.shape import HybridShape
from minitron.prune.plan import PrunePlan
from minitron.runtime.backbone import blocks_of

# A router's logit so low that no expert with it is chosen, and its softmax is 0.
NEVER = -1e4
EPS_NAMES = ("variance_epsilon", "eps")

Lost = Mapping[str, Indices]


def lost_units(plan: PrunePlan, layer: int | None) -> dict[str, Indices]:
    """Axis -> the units that a plan cuts off, seen from a block or from outside; a row for each owner of a set."""
    lost: dict[str, Indices] = {}
    for axis, kept in plan.keep.at(layer).items():
        everything = np.arange(plan.source.sizes[axis])
        rows = [np.setdiff1d(everything, row) for row in np.atleast_2d(kept)]
        lost[axis] = rows[0] if kept.ndim == 1 else np.stack(rows)
    return lost


@contextmanager
def zeroed(model: PreTrainedModel, plan: PrunePlan) -> Iterator[None]:
    """Puts out of action, in place and for good, every unit that a plan cuts off, and bypasses the blocks it removes.

    All that runs over a lost unit is 0; norms over the units that are left have the weights and the eps with which they
    divide by the mean square of those alone; lost experts are never chosen inside the `with`, for as many tokens as
    there are hidden channels.
    """
    shape, state = plan.source, model.state_dict()
    places = model_places(shape)
    with torch.no_grad():
        for prefix, layer, spec in _all_specs(shape):
            lost = lost_units(plan, layer)
            if spec.routes:
                lost = {axis: units for axis, units in lost.items() if axis == "hidden_size"}
            for number, name in enumerate(entry_names(spec, shape.sizes)):
                _zero(read_place(state, places[prefix + name]), spec, shape, lost, number)
            _correct_norm(model, spec, shape, lost, places[prefix + spec.name].name if spec.norm is not None else "")
    with ExitStack() as hooks:
        for layer, block in enumerate(blocks_of(model)):
            if layer not in plan.keep.layers:
                hooks.callback(block.register_forward_hook(bypass, with_kwargs=True).remove)
            lost = lost_units(plan, layer)
            for spec in shape.family.tensors_of(shape.hybrid_override_pattern[layer], shape.sizes):
                experts = lost.get("n_routed_experts")
                if spec.routes and experts is not None and len(experts):
                    _bar(block, spec, experts, hooks)
        yield


def _all_specs(shape: HybridShape) -> Iterator[tuple[str, int | None, TensorSpec]]:
    family = shape.family
    yield from (("", None, spec) for spec in family.tensors_outside(shape.sizes))
    for layer, kind in enumerate(shape.hybrid_override_pattern):
        prefix = family.block_prefix.format(layer=layer)
        yield from ((prefix, layer, spec) for spec in family.tensors_of(kind, shape.sizes))


def _zero(tensor: torch.Tensor, spec: TensorSpec, shape: HybridShape, lost: Lost, number: int) -> None:
    """Zeroes a tensor of the files where it runs over lost units; entry `number` of a stack that is kept apart."""
    if spec.stacked is not None and spec.is_whole:
        for entry, own in enumerate(tensor):
            _zero_dims(own, spec, shape, _of_entry(lost, entry))
    else:
        _zero_dims(tensor, spec, shape, _of_entry(lost, number))


def _of_entry(lost: Lost, entry: int) -> Lost:
    return {axis: units if units.ndim == 1 else units[entry] for axis, units in lost.items()}


def _zero_dims(tensor: torch.Tensor, spec: TensorSpec, shape: HybridShape, lost: Lost) -> None:
    for dim, parts in enumerate(spec.dims):
        for axis, units in lost.items():
            positions = kept_positions(parts, shape.sizes, {axis: units}) if len(units) else None
            if positions is not None:
                inside = _only_parts_of(parts, shape, axis, positions)
                tensor.index_fill_(dim, torch.from_numpy(inside), -(spec.norm or 0.0))


def _only_parts_of(
    parts: tuple[tuple[str | int, ...], ...], shape: HybridShape, axis: str, positions: Indices
) -> Indices:
    """Of positions of a dim, those in parts that run over the axis: a part that does not is kept whole."""
    start, inside = 0, []
    for part in parts:
        size = dim_size((part,), shape.sizes)
        if axis in part:
            inside.append(positions[(positions >= start) & (positions < start + size)])
        start += size
    return np.concatenate(inside)


def _correct_norm(model: PreTrainedModel, spec: TensorSpec, shape: HybridShape, lost: Lost, in_memory: str) -> None:
    if spec.norm is None:
        return
    left = 1.0
    for axis, units in lost.items():
        if any(axis in part for part in spec.dims[0]):
            left *= 1 - len(units) / shape.sizes[axis]
    if left == 1.0:
        return
    norm = model.get_submodule(in_memory.removesuffix(".weight"))
    weight_D = norm.get_parameter("weight")
    weight_D.copy_((weight_D + spec.norm) * left**0.5 - spec.norm)
    name = next(name for name in EPS_NAMES if hasattr(norm, name))
    setattr(norm, name, getattr(norm, name) * left)


def bypass(
    _block: nn.Module, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor], output: object
) -> object:
    """A forward hook by which a block gives what entered it, as a tensor or first in a tuple, as the block does."""
    stream = args[0] if args else kwargs["hidden_states"]
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


def _bar(block: nn.Module, spec: TensorSpec, experts: Indices, hooks: ExitStack) -> None:
    path, _, attribute = (spec.in_memory or spec.name).rpartition(".")
    router = block.get_submodule(path)
    rows = torch.from_numpy(experts)
    if len(spec.dims) == 1:
        getattr(router, attribute).data[rows] = NEVER
        return

    def before(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x_ND = args[0].reshape(-1, args[0].shape[-1])
        # The weights with which every one of these tokens has the lowest logit. torch's default driver, gelsy, gives
        # another answer where channels are 0.
        wanted_N1 = torch.full((len(x_ND), 1), NEVER, dtype=x_ND.dtype)
        low_D = torch.linalg.lstsq(x_ND, wanted_N1, driver="gelsd").solution[:, 0]
        module.get_parameter("weight").data[rows] = low_D

    hooks.callback(router.register_forward_pre_hook(before).remove)
