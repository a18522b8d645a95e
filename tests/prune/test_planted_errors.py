"""The laws find every error in a declaration that makes pruning wrong, whichever family it is planted in."""

import dataclasses
import functools
import random

import pytest
from transformers import PreTrainedModel

from minitron.errors import MinitronError
from minitron.models.axes import Dim, TensorSpec
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from minitron.prune.laws.laws import Finding, laws_of
from minitron.prune.laws.tiny_model import tiny_model
from tests.support.models import config_json, make_config
from tests.support.planted import Planted, planted
from tests.support.strategies import random_shape

SEED, SAMPLE = 3, 6
families = pytest.mark.parametrize("model_type", sorted(FAMILIES))


@families
def test_the_laws_hold_where_nothing_is_planted(model_type: str) -> None:
    shape, model = shape_and_model(model_type)
    assert first_broken(model, shape) is None


@families
def test_planted_errors_are_found(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of them; a different one for each family."""
    errors = list(planted(shape_and_model(model_type)[0]))
    check(model_type, random.Random(model_type).sample(errors, SAMPLE), monkeypatch)


@pytest.mark.slow
@families
def test_every_fourth_planted_error_is_found(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(model_type, list(planted(shape_and_model(model_type)[0]))[::4], monkeypatch)


def check(model_type: str, errors: list[Planted], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error is found, but for those that change nothing that pruning does."""
    shape, model = shape_and_model(model_type)
    missed = []
    for error in errors:
        monkeypatch.setitem(FAMILIES, model_type, error.family)
        if not is_found(model, shape):
            missed.append(error)
        monkeypatch.undo()
    assert [str(error) for error in missed] == [str(error) for error in errors if changes_nothing(error, shape)]


def is_found(model: PreTrainedModel, shape: HybridShape) -> bool:
    try:
        # A shape made anew, since shapes remember what they counted.
        return first_broken(model, HybridShape(**dataclasses.asdict(shape))) is not None
    except MinitronError:
        return True


def first_broken(model: PreTrainedModel, shape: HybridShape) -> Finding | None:
    return next((finding for finding in laws_of(model, shape) if not finding.holds), None)


def changes_nothing(error: Planted, shape: HybridShape) -> bool:
    """Whether an error has no consequence.

    - What is added to a norm's weight counts only where the norm runs over channels that can go: not in the norms of
      queries, keys and DeltaNet's heads, whose channels all stay.
    - The order of a part's sizes counts only where one of them can be cut: not in Mamba's [groups, state].
    """
    spec = spec_of(error, shape)
    if spec is None:
        return False
    if error.what == "no norm" or error.what.startswith("adds "):
        return not spec.axes() & set(shape.family.axes)
    if error.what.endswith("in the other order in dim 0"):
        dim: Dim = spec.dims[0]
        return not set(dim[int(error.what.split()[1])]) & set(shape.family.axes)
    return False


def spec_of(error: Planted, shape: HybridShape) -> TensorSpec | None:
    """The right declaration of the tensor; None where the error is not in a tensor's."""
    kind, _, name = error.where.rpartition(" ")
    specs = shape.family.block_tensors[kind] if kind else shape.family.model_tensors
    return next((spec for spec in specs if spec.name == name), None)


@functools.cache
def shape_and_model(model_type: str) -> tuple[HybridShape, PreTrainedModel]:
    """A model with every kind of block that its configuration can have together, and at least two blocks."""
    letters = "S" if model_type == "mistral" else "".join(FAMILIES[model_type].block_kinds)
    shape = random_shape(model_type, letters if len(letters) > 1 else 2 * letters, SEED)
    return shape, tiny_model(config_json(make_config(shape)), shape, seed=0)
