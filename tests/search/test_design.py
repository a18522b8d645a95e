"""Shapes that a law is fitted to: every axis alone, mixes of all, each once and possible."""

import pytest

from minitron.estimate.serving.workload import Workload
from minitron.models.shape import HybridShape
from minitron.search.design import axis_levels, axis_options, design
from minitron.search.space import SearchSpace

WORKLOAD = Workload(context_tokens=64)


def space_of(shape: HybridShape) -> SearchSpace:
    layers = tuple(tuple(range(kept)) for kept in (shape.num_hidden_layers, shape.num_hidden_layers - 1))
    return SearchSpace(source=shape, layers=layers, sizes={"hidden_size": (22, 20, 18, 14), "mamba_num_heads": (8, 4)})


def test_each_axis_is_cut_alone_and_mixes_cut_several(tiny_shape: HybridShape) -> None:
    space = space_of(tiny_shape)
    found = design(space, WORKLOAD, levels=2, mixes=5, seed=0)
    cut = [
        {axis: size for axis, size in each.shape.sizes.items() if size != tiny_shape.sizes[axis]}
        | ({"layers": len(each.layers)} if len(each.layers) < tiny_shape.num_hidden_layers else {})
        for each in found
    ]
    options = axis_options(space)
    assert [one for one in cut if len(one) == 1] == [
        {axis: size} for axis, sizes in options.items() for size in axis_levels(sizes, 2)
    ]
    mixes = [one for one in cut if len(one) > 1]
    assert len(mixes) == 5
    assert all(size in options[axis] for one in mixes for axis, size in one.items())
    assert len({(each.layers, each.shape) for each in found}) == len(found)


def test_the_seed_fixes_the_mixes(tiny_shape: HybridShape) -> None:
    space = space_of(tiny_shape)
    one, same, other = (design(space, WORKLOAD, levels=1, mixes=6, seed=seed) for seed in (0, 0, 1))
    assert one == same != other


def test_no_more_mixes_are_found_than_there_are(tiny_shape: HybridShape) -> None:
    found = design(space_of(tiny_shape), WORKLOAD, levels=9, mixes=100, seed=0)
    assert len(found) == 2 * 4 * 2 - 1  # all shapes of the space but the source's


def test_heads_of_keys_and_values_take_their_attention_heads_with_them(tiny_shape: HybridShape) -> None:
    owner, owned = next(iter(tiny_shape.family.owners.items()))
    assert tiny_shape.sizes[owner] > 1
    layers = (tuple(range(tiny_shape.num_hidden_layers)),)
    (found,) = design(
        SearchSpace(source=tiny_shape, layers=layers, sizes={owner: (1,)}), WORKLOAD, levels=3, mixes=4, seed=0
    )
    assert found.shape.sizes[owned] == tiny_shape.sizes[owned] // tiny_shape.sizes[owner]


def test_widths_that_a_ratio_gives_are_options(tiny_shape: HybridShape) -> None:
    layers = (tuple(range(tiny_shape.num_hidden_layers)),)
    space = SearchSpace(
        source=tiny_shape, layers=layers, sizes={"hidden_size": (22, 14)}, intermediate_ratios=(0.5, 1.0)
    )
    assert axis_options(space) == {"hidden_size": (14,), "intermediate_size": (22, 14, 11, 7)}


def test_a_space_that_cuts_nothing_is_refused(tiny_shape: HybridShape) -> None:
    whole = SearchSpace(source=tiny_shape, layers=(tuple(range(tiny_shape.num_hidden_layers)),), sizes={})
    with pytest.raises(ValueError, match="a forecast needs axes to cut"):
        design(whole, WORKLOAD, levels=3, mixes=4, seed=0)
