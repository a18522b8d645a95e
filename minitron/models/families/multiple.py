"""Sizes that go together: a product of some must be a multiple of a product of others."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minitron.models.axes import SizeT, part_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiple:
    """A product of sizes that must be a multiple of another one.

    Attributes:
        sizes: Names of the sizes that are multiplied.
        of: Names of the sizes of the other product.
        because: Who asks for it.
    """

    sizes: tuple[str, ...]
    of: tuple[str, ...]
    because: str

    def holds(self, sizes: Mapping[str, SizeT]) -> npt.NDArray[np.bool_]:
        """Whether it is one; sizes are numbers or arrays."""
        return np.asarray(part_size(self.sizes, sizes) % np.maximum(part_size(self.of, sizes), 1) == 0)

    def __str__(self) -> str:
        """As an error says it."""
        return f"{' x '.join(self.sizes)} a multiple of {' x '.join(self.of)}"
