"""Which blocks may be removed: quotas by kind, and blocks that are protected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minitron.errors import ShapeError


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockQuotas:
    """Limits on the blocks that stay.

    Attributes:
        at_least: Letter of a kind -> how many of its blocks stay at least (all where there are fewer).
        exactly: Letters of some kinds -> how many of their blocks, all together, stay in the end (arXiv 2508.14444
            keeps 4 attention blocks). No letter is in two of them.
        protected: Blocks that stay, by their index.
    """

    at_least: Mapping[str, int] = field(default_factory=dict)
    exactly: Mapping[str, int] = field(default_factory=dict)
    protected: frozenset[int] = frozenset()

    def check(self, pattern: str, kept: int) -> None:
        """Checks that the quotas allow to keep a number of blocks.

        Raises:
            ShapeError: They do not.
        """
        beyond = sorted(layer for layer in self.protected if not 0 <= layer < len(pattern))
        if beyond:
            raise ShapeError(f"protected blocks must be below {len(pattern)}, got {beyond}")
        if kept < 1:
            raise ShapeError(f"at least one of {len(pattern)} blocks must stay, got {kept}")
        layers = list(range(len(pattern)))
        while len(layers) > kept:
            layers.remove(self.removable(pattern, layers, kept)[0])

    def removable(self, pattern: str, layers: Sequence[int], kept: int) -> list[int]:
        """Of the layers that are left, those that may be removed next on the way to `kept` blocks.

        Raises:
            ShapeError: The quotas do not allow to keep `kept` blocks.
        """
        left = {kind: sum(pattern[layer] == kind for layer in layers) for kind in set(pattern)}
        surplus = {
            kinds: sum(left.get(kind, 0) for kind in kinds) - number
            for kinds, number in self.exactly.items()
            if any(kind in left for kind in kinds)
        }
        removals = len(layers) - kept
        must = sum(surplus.values())
        if min(surplus.values(), default=0) < 0 or must > removals:
            raise ShapeError(
                f"{kept} of {len(layers)} blocks cannot be kept with exactly {dict(self.exactly)}, there are {left}"
            )

        def allowed(layer: int) -> bool:
            kind = pattern[layer]
            if layer in self.protected:
                return False
            for kinds, number in surplus.items():
                if kind in kinds:
                    return number > 0
            return left[kind] > self.at_least.get(kind, 0) and must < removals

        found = [layer for layer in layers if allowed(layer)]
        if not found:
            raise ShapeError(f"at least {len(layers)} of {len(pattern)} blocks must stay under the quotas, got {kept}")
        return found
