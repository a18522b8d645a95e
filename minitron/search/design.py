"""Design: the shapes of a space that are measured so that a law over its axes can be fitted. No torch."""

from collections.abc import Mapping

import numpy as np

from minitron.errors import BudgetError
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.search.solver import Candidate
from minitron.search.space import SearchSpace

LAYERS = "layers"  # the axis of depth, whose sizes are numbers of blocks
MOST_DRAWS = 100  # designs that are drawn until so many mixes are possible


def axis_options(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    """Axis -> sizes below the source's that the space tries, the largest first; axes that it leaves whole are absent.

    `layers` stands for the depth. Widths that a ratio gives count for each hidden size; an axis that follows its groups
    is not one of its own.
    """
    source, sizes = space.source, dict(space.sizes)
    if space.intermediate_ratios:
        hidden_sizes = space.sizes.get("hidden_size", (source.hidden_size,))
        sizes["intermediate_size"] = tuple(
            round(ratio * hidden) for ratio in space.intermediate_ratios for hidden in hidden_sizes
        )
    found = {LAYERS: {len(layers) for layers in space.layers if len(layers) < source.num_hidden_layers}}
    found |= {axis: {size for size in tried if size < source.sizes[axis]} for axis, tried in sizes.items()}
    return {axis: tuple(sorted(tried, reverse=True)) for axis, tried in found.items() if tried}


def axis_levels(options: tuple[int, ...], levels: int) -> tuple[int, ...]:
    """So many of an axis's options, evenly spaced, both ends among them; the smallest where one is asked for.

    >>> axis_levels((576, 512, 448, 384, 320, 256), 3)
    (576, 384, 256)
    """
    places = np.linspace(0, len(options) - 1, min(levels, len(options)))[::-1]
    return tuple(options[-1 - int(place)] for place in places)


def design(space: SearchSpace, workload: Workload, *, levels: int, mixes: int, seed: int) -> tuple[Candidate, ...]:
    """The shapes to measure: each axis cut alone, then cuts of several axes at once. Every shape stands there once.

    Mixes are a Latin hypercube over the axes' sizes, the source's own among them, so that every stretch of every axis
    is met equally often.

    Source: McKay, Beckman and Conover (1979), Technometrics 21(2), section 2.

    Args:
        space: The shapes that a law is asked about.
        workload: What bytes are counted for.
        levels: Sizes of each axis that are measured alone.
        mixes: Shapes that cut several axes.
        seed: Fixes the mixes.

    Raises:
        BudgetError: The space cuts nothing.
    """
    options = axis_options(space)
    if not options:
        raise BudgetError("a forecast needs axes to cut: the search space holds the source's own shape alone")
    found: dict[tuple[object, ...], Candidate] = {}
    for axis, sizes in options.items():
        for size in axis_levels(sizes, levels):
            _add(found, space, workload, {axis: size})
    wanted = len(found) + (mixes if len(options) > 1 else 0)
    rng = np.random.default_rng(seed)
    for _ in range(MOST_DRAWS):
        for mix in _latin_hypercube(space, options, mixes, rng):
            if len(mix) > 1 and len(found) < wanted:
                _add(found, space, workload, mix)
        if len(found) >= wanted:
            break
    return tuple(found.values())


def cut_to(space: SearchSpace, workload: Workload, sizes: Mapping[str, int]) -> Candidate | None:
    """The source cut to sizes by axis, blocks as the space keeps them; None where the family has no such shape."""
    source, family = space.source, space.source.family
    depths = {len(layers): layers for layers in space.layers}
    layers = depths[sizes[LAYERS]] if LAYERS in sizes else tuple(range(source.num_hidden_layers))
    widths = family.with_units({axis: size for axis, size in sizes.items() if axis != LAYERS}, source.sizes)
    if not family.is_possible({**source.sizes, **widths}, source.sizes):
        return None
    shape = source.resized(layers=layers, **widths)
    return Candidate(shape=shape, layers=layers, memory=memory_bytes(shape, workload))


def _add(
    found: dict[tuple[object, ...], Candidate], space: SearchSpace, workload: Workload, sizes: Mapping[str, int]
) -> None:
    candidate = cut_to(space, workload, sizes)
    if candidate is not None:
        found.setdefault((candidate.layers, candidate.shape), candidate)


def _latin_hypercube(
    space: SearchSpace, options: Mapping[str, tuple[int, ...]], mixes: int, rng: np.random.Generator
) -> list[dict[str, int]]:
    """So many cuts, axis -> size; axes that keep the source's size are left out."""
    cuts: list[dict[str, int]] = [{} for _ in range(mixes)]
    for axis, sizes in options.items():
        drawn = (rng.permutation(mixes) + rng.random(mixes)) / max(1, mixes)
        for cut, place in zip(cuts, drawn * (len(sizes) + 1), strict=True):
            if place >= 1:
                cut[axis] = sizes[int(place) - 1]
    return cuts
