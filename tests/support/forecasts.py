"""Synthetic points of a known law, in plain float64."""

import math

import numpy as np

from minitron.forecast.fit import Point

# Axis -> (scale, exponent).
TRUTH = {"hidden_size": (3.0, 1.5), "intermediate_size": (0.7, 1.0), "layers": (1.3, 0.8)}
MIXING = 0.85


def true_kl(lost: dict[str, float], *, mixing: float = MIXING) -> float:
    """The law's formula, written down once more."""
    total = 0.0
    for axis, share in lost.items():
        scale, exponent = TRUTH[axis]
        total += (scale * share**exponent) ** mixing
    return float(total ** (1 / mixing))


def synthetic_points(rng: np.random.Generator, *, mixes: int, noise: float) -> list[Point]:
    """Three sizes of each axis alone, then mixes; KL with errors of a log-normal."""
    singles = [{axis: share} for axis in TRUTH for share in (0.02, 0.08, 0.2)]
    return [noisy(lost, rng, noise) for lost in [*singles, *(draw_mix(rng) for _ in range(mixes))]]


def draw_mix(rng: np.random.Generator) -> dict[str, float]:
    """A cut of two axes or more, within what `synthetic_points` cuts of each alone."""
    number = int(rng.integers(2, len(TRUTH) + 1))
    return {str(axis): float(rng.uniform(0.02, 0.2)) for axis in rng.permutation(list(TRUTH))[:number]}


def noisy(lost: dict[str, float], rng: np.random.Generator, noise: float) -> Point:
    """A cut measured with an error."""
    return Point(lost=lost, kl=true_kl(lost) * math.exp(noise * float(rng.standard_normal())))
