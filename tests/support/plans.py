"""Pruning plans for tiny models."""

import numpy as np

from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.axes import Indices
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.plan import PrunePlan

LAYERS = (0, 1, 2, 4, 6, 7)


def make_plan(shape: HybridShape) -> PrunePlan:
    target = shape.resized(layers=LAYERS, hidden_size=13, intermediate_size=21, mamba_num_heads=4, mamba_head_dim=3)
    keep = select_units(random_scores(shape, seed=0), shape, target, LAYERS)
    return PrunePlan(source=shape, target=target, keep=keep)


def make_block_widths_plan(shape: HybridShape, *, seed: int = 0) -> PrunePlan:
    """Nothing but FFNs is cut, each to a width of its own, at random; their mean is a whole number."""
    rng, layers = np.random.default_rng(seed), shape.ffn_layers
    widths = [shape.intermediate_size - 4 * number - 3 for number in range(len(layers))]
    widths[-1] -= sum(widths) % len(widths)
    indices: dict[tuple[str, int | None], Indices] = {
        ("intermediate_size", layer): np.sort(rng.permutation(shape.intermediate_size)[:width])
        for layer, width in zip(layers, widths, strict=True)
    }
    keep = Keep(layers=tuple(range(shape.num_hidden_layers)), indices=indices)
    plan = PrunePlan(source=shape, target=keep.shape(shape), keep=keep)
    assert plan.target.block_widths == tuple(widths)
    return plan
