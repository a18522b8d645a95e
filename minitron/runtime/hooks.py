"""Activation hooks: collectors are fed what passes through submodules of blocks, and no hook outlives its `with`."""

# B samples, T tokens, C channels, N counted tokens

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from minitron.models.axes import part_range
from minitron.models.families.family import HookPoint
from minitron.models.shape import HybridShape

Activations = tuple[torch.Tensor, ...]
State = dict[str, torch.Tensor]


class Collector(Protocol):
    """Takes in the activations of a hook site, one forward pass after another."""

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        """Takes in what one pass shows at the site; only tokens that the mask counts matter, all without a mask."""


class Accumulator(Collector, Protocol):
    """A collector of a running statistic, which can be saved and merged with that of other processes.

    Attributes:
        state: The statistic as named tensors, empty before the first pass.
    """

    state: State

    def merge(self, other: Mapping[str, torch.Tensor]) -> None:
        """Takes in the state of another accumulator of the same kind."""


class LatestActivation:
    """Keeps what the latest pass showed, gradients included."""

    def __init__(self) -> None:
        self._latest: torch.Tensor | None = None

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        """Keeps the activation in place of the one before."""
        self._latest = activations[0]

    @property
    def value(self) -> torch.Tensor:
        """The activation of the latest pass."""
        assert self._latest is not None, "no pass went through the hook site"
        return self._latest


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSite:
    """Where in a block a collector is attached.

    Attributes:
        module: Path of the submodule inside the block; empty for the block itself.
        side: What the collector is given: all of the submodule's `input`s, its `output`, or its first input and its
            output (`both`).
        channels: (first, stop) of the channels that are collected, in the last dim; None for all.
        flat: Whether the tokens of all samples are one dim there; collectors are given them by sample all the same.
    """

    module: str = ""
    side: Literal["input", "output", "both"] = "output"
    channels: tuple[int, int] | None = None
    flat: bool = False


Attachment = tuple[nn.Module, HookSite, Collector]


def site_of(point: HookPoint, kind: str, shape: HybridShape) -> HookSite:
    """The site of a family's hook point in a block of a kind, for a model of a shape."""
    channels = None
    if point.part is not None:
        name, dim, part = point.part
        channels = part_range(shape.family.block_tensor(kind, name).dims[dim], part, shape.sizes)
    return HookSite(module=point.module, side=point.side, channels=channels, flat=point.flat)


@contextmanager
def collecting(attachments: Iterable[Attachment], mask_BT: torch.Tensor | None = None) -> Iterator[None]:
    """Feeds collectors with every pass inside the `with`; hooks are removed however it ends.

    Models must be in evaluation mode where submodules are hooked: fused training kernels skip submodules.

    Args:
        attachments: (block, site inside it, collector).
        mask_BT: Which tokens of the passes count; all when None.
    """
    with ExitStack() as hooks:
        for block, site, collector in attachments:
            shape: list[int] = []
            if site.flat:
                hooks.callback(block.register_forward_pre_hook(partial(_note_shape, shape), with_kwargs=True).remove)
            hooks.callback(_register(block.get_submodule(site.module), site, collector, mask_BT, shape).remove)
        yield


@contextmanager
def collecting_outputs(blocks: Iterable[tuple[int, nn.Module]]) -> Iterator[Mapping[int, LatestActivation]]:
    """Gives, for each numbered block, the collector of the residual stream behind it, [B, T, D]."""
    numbered = dict(blocks)
    latest = {layer: LatestActivation() for layer in numbered}
    with collecting([(block, HookSite(), latest[layer]) for layer, block in numbered.items()]):
        yield latest


def counted_tokens(x_BTC: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """[N, C]: the tokens that the mask counts; without a mask all of them."""
    x_BTC = x_BTC.detach()
    return x_BTC.flatten(0, 1) if mask_BT is None else x_BTC[mask_BT]


def merge_sums(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> State:
    """Two states whose tensors are sums, added; either may be empty."""
    if not one or not other:
        return dict(one or other)
    return {name: one[name] + other[name] for name in one}


def _note_shape(shape: list[int], _block: nn.Module, args: Activations, kwargs: Mapping[str, torch.Tensor]) -> None:
    shape[:] = _inputs(args, kwargs)[0].shape[:2]


def _register(
    module: nn.Module, site: HookSite, collector: Collector, mask_BT: torch.Tensor | None, shape_BT: list[int]
) -> RemovableHandle:
    def feed(activations: Activations) -> None:
        if site.flat:
            activations = tuple(x_NC.reshape(*shape_BT, -1) for x_NC in activations)
        if site.channels is not None:
            first, stop = site.channels
            activations = tuple(x_BTC[..., first:stop] for x_BTC in activations)
        collector.update(activations, mask_BT)

    def before(_module: nn.Module, args: Activations, kwargs: dict[str, torch.Tensor]) -> None:
        feed(_inputs(args, kwargs))

    def after(
        _module: nn.Module, args: Activations, kwargs: dict[str, torch.Tensor], output: torch.Tensor | Activations
    ) -> None:
        first = output[0] if isinstance(output, tuple) else output
        feed((first,) if site.side == "output" else (_inputs(args, kwargs)[0], first))

    if site.side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after, with_kwargs=True)


def _inputs(args: Activations, kwargs: Mapping[str, torch.Tensor]) -> Activations:
    return args or (kwargs["hidden_states"],)
