"""The law of a cut: KL to the teacher from the importance that is lost on each axis."""

# N points, A axes

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minitron.forecast.least_squares import Numbers

# Axis -> share of its importance that a cut loses, 0 where it is whole; for one shape, or arrays that broadcast.
Lost = Mapping[str, "float | Numbers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisLaw:
    """What one axis costs alone: scale * lost ** exponent, nats a token.

    Attributes:
        scale: KL where all of its importance is lost, nats a token.
        exponent: Power of the lost share, above 0, so that a deeper cut never costs less.
    """

    scale: float
    exponent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CutLaw:
    """KL of a cut of several axes: (sum over axes of (scale * lost ** exponent) ** mixing) ** (1 / mixing).

    KL to second order is a quadratic form of the change of the logits, so changes that have nothing to do with each
    other add their KL (mixing 1), and changes that point the same way add its root (mixing 1/2); above 1 one cut takes
    away what the other would have damaged. Whatever is fitted, losing more importance on any axis never lowers it.

    Attributes:
        axes: Axis -> what it costs alone.
        mixing: How axes add up, above 0.
    """

    axes: Mapping[str, AxisLaw]
    mixing: float = 1.0

    def predict(self, lost: Lost) -> Numbers:
        """KL to the teacher, nats a token; an axis of the law that is not named is whole.

        >>> law = CutLaw(axes={"a": AxisLaw(scale=2.0, exponent=1.0), "b": AxisLaw(scale=1.0, exponent=2.0)})
        >>> law.predict({"a": 0.1, "b": 0.5}).round(9).tolist()
        0.45
        """
        total = np.asarray(0.0)
        for axis, share in lost.items():
            if axis in self.axes:
                one = self.axes[axis]
                alone = one.scale * np.maximum(np.asarray(share, dtype=np.float64), 0.0) ** one.exponent
                total = np.asarray(total + alone**self.mixing)
        return np.asarray(total ** (1 / self.mixing))
