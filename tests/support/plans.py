"""A pruning plan for the tiny hybrid."""

from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.prune.plan import PrunePlan

LAYERS = (0, 1, 2, 4, 6, 7)


def make_plan(shape: HybridShape) -> PrunePlan:
    target = shape.resized(layers=LAYERS, hidden_size=13, intermediate_size=21, mamba_num_heads=4, mamba_head_dim=3)
    keep = select_units(random_scores(shape, seed=0), shape, target, LAYERS)
    return PrunePlan(source=shape, target=target, keep=keep)
