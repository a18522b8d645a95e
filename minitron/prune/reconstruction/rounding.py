"""A block's weights by their names on disk, rounded to the dtypes in which they will be stored."""

from collections.abc import Mapping

import torch

from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import block_places
from minitron.models.shape import HybridShape
from minitron.runtime.backbone import Block

Weights = dict[str, torch.Tensor]


class Rounding:
    """Names and dtypes of a student's blocks.

    Args:
        shape: The student's.
        dtypes: Name on disk -> dtype that a weight is rounded to; others keep their dtype in memory.
    """

    def __init__(self, shape: HybridShape, dtypes: Mapping[str, torch.dtype]) -> None:
        self._shape, self._dtypes = shape, dtypes

    def on_disk(self, position: int, name: str) -> str:
        """The full name on disk of a tensor that is named inside a block."""
        return self._shape.family.block_prefix.format(layer=position) + name

    def rounded(self, on_disk: str, weight: torch.Tensor, in_memory: torch.dtype) -> torch.Tensor:
        """A weight as it will be stored, in fp32."""
        return weight.to(self._dtypes.get(on_disk, in_memory)).float()

    def weights_of(self, own: Block, position: int) -> Weights:
        """All of a block's tensors by name on disk, sharing its memory: an expert is a part of a stack."""
        kind = self._shape.hybrid_override_pattern[position]
        state = {name: value.detach() for name, value in own[1].named_parameters()}
        places = block_places(self._shape.family, kind, self._shape.sizes)
        return {
            self.on_disk(position, name): read_place(state, place)
            for name, place in places.items()
            if place.name in state
        }

    def round_block(self, own: Block, position: int) -> None:
        """Rounds a block's weights in place."""
        for name, weight in self.weights_of(own, position).items():
            weight.copy_(self.rounded(name, weight, weight.dtype))
