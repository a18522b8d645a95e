"""The laws: what a family's declarations must do to a model for pruning by them to be exact.

Each law takes a tiny random model in fp64 and holds two of its forms against each other; both are computed by
transformers' own modeling code. A wrong part, order, group or axis in a declaration breaks at least one of them.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from minitron.errors import MinitronError
from minitron.models.axes import VOCABULARY
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.in_memory import prune_model
from minitron.prune.laws.random_keep import random_keep, smaller_sizes
from minitron.prune.laws.tiny_model import exact_logits, tiny_model
from minitron.prune.laws.tiny_shape import short_pattern, tiny_shape
from minitron.prune.laws.zeroing import zeroed
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import count_params

# Logits are of the order of 1; sums of a few hundred fp64 products differ by 1e-13 when they are reordered.
ROUNDING = 1e-9
# What a unit that matters changes is far above rounding.
SEEN = 1e-6
# Fewer tokens than hidden channels, so that routers can be told off: see `zeroed`.
TOKENS = 11
DEPTH = "num_hidden_layers"
# What a wrong declaration raises, from its own checks or from torch.
FAULTS = (MinitronError, RuntimeError, LookupError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one law found.

    Attributes:
        law: counted, any order, cut or seen.
        axis: The axis; `num_hidden_layers` for blocks, `all` for the whole model.
        apart: Relative distance of the two forms' logits; None where one of them could not be made.
        holds: Whether the law holds.
        fault: What could not be made, where one could not.
    """

    law: str
    axis: str
    apart: float | None
    holds: bool
    fault: str = ""


def tiny_like(shape: HybridShape, *, seed: int = 0) -> HybridShape:
    """A tiny shape with a real one's kinds of block, switches and absent sizes."""
    return tiny_shape(shape.model_type, short_pattern(shape.hybrid_override_pattern), seed=seed, like=shape)


def check_laws(config: Mapping[str, object], tiny: HybridShape, *, seed: int = 0) -> Iterator[Finding]:
    """Holds the laws on a tiny random model of a configuration's class and settings.

    - counted: the parameters that the shape counts are those that transformers makes;
    - any order: every axis in another order, group by group, gives the same logits; some tokens alone, in another
      order, give their logits of the whole model;
    - cut: without units, or blocks, the logits are those of the whole model with the same put out of action;
    - seen: putting them out of action changes the logits, so that the law above can fail.

    Args:
        config: The `config.json`.
        tiny: The tiny model's shape.
        seed: Fixes weights, tokens and plans.
    """
    yield from laws_of(tiny_model(config, tiny, seed=seed), tiny, seed=seed)


def laws_of(model: PreTrainedModel, shape: HybridShape, *, seed: int = 0) -> Iterator[Finding]:
    """Holds the laws on a model in fp64, whose shape must be tiny and have distinct dims."""
    rng = np.random.default_rng(seed)
    ids_1T = torch.from_numpy(rng.integers(3, shape.vocab_size, (1, min(TOKENS, shape.hidden_size - 1))))
    found = count_params(model)
    yield Finding(law="counted", axis="all", apart=abs(found / shape.params - 1), holds=found == shape.params)
    whole = exact_logits(model, ids_1T)
    for axis in shape.family.axes.values():
        if shape.sizes[axis.name] > 1 and (axis.blocks is None or shape.count(axis.blocks)):
            keep = random_keep(shape, axis, rng, size=shape.sizes[axis.name])
            yield _reordered(model, shape, axis.name, keep, ids_1T, whole)
            smaller = smaller_sizes(shape, axis)
            # One neuron may be silent for every token, and no token may go to one expert: half, or all that can be.
            few = smaller[len(smaller) // 2] if axis.used is None else smaller[0]
            yield from _cut(model, shape, axis.name, random_keep(shape, axis, rng, size=few), ids_1T, whole)
    yield _tokens(model, shape, ids_1T, whole, rng)
    for layer in range(shape.num_hidden_layers):
        layers = tuple(each for each in range(shape.num_hidden_layers) if each != layer)
        yield from _cut(model, shape, DEPTH, Keep(layers=layers, indices={}), ids_1T, whole)


def _reordered(
    model: PreTrainedModel, shape: HybridShape, axis: str, keep: Keep, ids_1T: torch.Tensor, whole: torch.Tensor
) -> Finding:
    """The law `any order` of one axis."""
    try:
        plan = PrunePlan(source=shape, target=shape, keep=keep)
        return _held("any order", axis, _distance(exact_logits(prune_model(model, plan), ids_1T), whole))
    except FAULTS as error:
        return _faulty("any order", axis, error)


def _cut(
    model: PreTrainedModel, shape: HybridShape, axis: str, keep: Keep, ids_1T: torch.Tensor, whole: torch.Tensor
) -> Iterator[Finding]:
    """The laws `cut` and `seen` of one plan."""
    try:
        plan = PrunePlan(source=shape, target=keep.shape(shape), keep=keep)
        cut = exact_logits(prune_model(model, plan), ids_1T)
        quiet = copy.deepcopy(model)
        with zeroed(quiet, plan):
            silenced = exact_logits(quiet, ids_1T)
    except FAULTS as error:
        yield _faulty("cut", axis, error)
        return
    yield _held("cut", axis, _distance(cut, silenced))
    apart = _distance(silenced, whole)
    yield Finding(law="seen", axis=axis, apart=apart, holds=apart > SEEN)


def _tokens(
    model: PreTrainedModel, shape: HybridShape, ids_1T: torch.Tensor, whole: torch.Tensor, rng: np.random.Generator
) -> Finding:
    """The law `any order` of the vocabulary, of which some tokens are gone."""
    read = np.unique(ids_1T.numpy())
    others = rng.permutation(np.setdiff1d(np.arange(shape.vocab_size), read))
    kept = rng.permutation(np.concatenate([read, others[: len(others) // 2]]))
    keep = Keep(layers=tuple(range(shape.num_hidden_layers)), indices={(VOCABULARY.name, None): kept})
    places = torch.from_numpy(np.argsort(kept)[np.searchsorted(np.sort(kept), ids_1T.numpy())])
    try:
        plan = PrunePlan(source=shape, target=keep.shape(shape), keep=keep)
        found = exact_logits(prune_model(model, plan), places)
    except FAULTS as error:
        return _faulty("any order", VOCABULARY.name, error)
    return _held("any order", VOCABULARY.name, _distance(found, whole[..., torch.from_numpy(kept)]))


def _faulty(law: str, axis: str, error: Exception) -> Finding:
    return Finding(law=law, axis=axis, apart=None, holds=False, fault=str(error).splitlines()[0])


def _held(law: str, axis: str, apart: float) -> Finding:
    return Finding(law=law, axis=axis, apart=apart, holds=apart < ROUNDING)


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
