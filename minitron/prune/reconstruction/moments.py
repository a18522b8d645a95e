"""Second moments over calibration tokens, and where they listen."""

# B samples, T tokens, N counted tokens, D targets, C inputs

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Name = TypeVar("Name", bound=Hashable)


class Moments:
    """Running sums R^T A [D, C] and A^T A [C, C] over counted tokens: a batch in fp32, the totals in fp64.

    A batch's sum has a relative error of some 1e-7 times the root of its tokens, which the fp64 total does not add to.
    """

    def __init__(self) -> None:
        self._cross_DC: torch.Tensor | None = None
        self._gram_CC: torch.Tensor | None = None

    @property
    def cross(self) -> torch.Tensor:
        """R^T A [D, C], fp64."""
        assert self._cross_DC is not None
        return self._cross_DC

    @property
    def gram(self) -> torch.Tensor:
        """A^T A [C, C], fp64."""
        assert self._gram_CC is not None
        return self._gram_CC

    def add(self, target_BTD: torch.Tensor, input_BTC: torch.Tensor, mask_BT: torch.Tensor | None) -> None:
        """Takes a batch; only tokens that the mask counts matter, all without a mask."""
        target_ND, input_NC = _counted(target_BTD, mask_BT), _counted(input_BTC, mask_BT)
        cross_DC, gram_CC = target_ND.T @ input_NC, input_NC.T @ input_NC
        if self._cross_DC is None or self._gram_CC is None:
            self._cross_DC, self._gram_CC = cross_DC.double(), gram_CC.double()
        else:
            self._cross_DC += cross_DC
            self._gram_CC += gram_CC


@contextmanager
def heard(block: nn.Module, places: Mapping[Name, tuple[str, str]]) -> Iterator[dict[Name, torch.Tensor]]:
    """Gives a dict that holds, after each pass through the block, what was heard at each place.

    Args:
        block: The block.
        places: Name -> (submodule, input or output).
    """
    found: dict[Name, torch.Tensor] = {}
    hooks: list[RemovableHandle] = []
    try:
        for name, (module, side) in places.items():
            listen = _listener(found, name)
            submodule = block.get_submodule(module)
            if side == "input":
                hooks.append(submodule.register_forward_pre_hook(lambda _, x, listen=listen: listen(x[0])))
            else:
                hooks.append(submodule.register_forward_hook(lambda _, __, y, listen=listen: listen(y)))
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _listener(found: dict[Name, torch.Tensor], name: Name) -> Any:
    def listen(x: torch.Tensor) -> None:
        found[name] = x.detach()

    return listen


def _counted(x_BTC: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    x_NC = x_BTC.float().flatten(0, 1) if mask_BT is None else x_BTC.float()[mask_BT]
    return x_NC
