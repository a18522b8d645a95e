"""A search with readers against a plain loop over every shape that asks `check` of each."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.errors import MinitronError
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.reader_names import READERS
from minitron.estimate.serving.shape_rules import Serving
from minitron.estimate.serving.workload import Workload
from minitron.integrations.readers.check import check
from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape
from minitron.recipe.budget import STUDENT_KEYS
from minitron.search.limits import Limits
from minitron.search.solver import NothingFitsError, solve_budget
from minitron.search.space import SearchSpace, check_sizes
from tests.support.models import make_moe_shape, make_tiny_shape
from tests.support.served import ARCHITECTURES, served_config
from tests.support.strategies import Distinct, shapes

WORKLOAD = Workload(context_tokens=48)
# What the configuration of every student has where it is needed, as recipes have it.
WITH_HEAD_DIM = frozenset(STUDENT_KEYS)


def takes(shape: HybridShape, readers: Sequence[str], gpus: int, keys: frozenset[str]) -> bool:
    """Whether each reader takes a configuration of the shape that has all else it needs."""
    config = served_config(shape) | dict.fromkeys(keys, shape.mamba_head_dim)
    return not any(check(config, shape, reader, gpus) for reader in readers)


def every_shape(space: SearchSpace) -> list[HybridShape]:
    found = []
    for layers in space.layers:
        kept = {space.source.hybrid_override_pattern[layer] for layer in layers}
        for sizes in itertools.product(*space.sizes.values()):
            chosen = {
                axis: size
                for axis, size in zip(space.sizes, sizes, strict=True)
                if (blocks := space.source.family.axes[axis].blocks) is None or set(blocks) & set(kept)
            }
            try:
                shape = space.source.resized(layers=layers, **chosen)
            except MinitronError:
                continue  # hidden channels that are no multiple of the heads, in llama
            if all(_whole_groups(shape, space.source, *pair) for pair in space.source.family.owners.items()):
                found.append(shape)
    return found


def _whole_groups(shape: HybridShape, source: HybridShape, groups: str, units: str) -> bool:
    """Whether no group has more units than it had."""
    if not source.sizes[groups]:
        return True
    return shape.sizes[units] // shape.sizes[groups] <= source.sizes[units] // source.sizes[groups]


@st.composite
def sources(draw: Any) -> HybridShape:
    """A shape of any family, all dims distinct; of those that cannot be cut, 2 and 4 GPUs split or repeat every one."""
    new = Distinct(draw)
    kv, groups = new.among([2, 4]), new.among([2, 4])
    sizes = {
        "num_key_value_heads": kv,
        "num_attention_heads": new.among(kv * each for each in range(3, 8)),
        "head_dim": new.among(range(6, 20, 2)),
        "intermediate_size": new.among(range(30, 70)),
        "vocab_size": new.among(range(72, 80)),
    }
    model_type = draw(st.sampled_from(["nemotron_h", "nemotron_h", "llama", "qwen3"]))
    if model_type != "nemotron_h":
        hidden = new.among(sizes["num_attention_heads"] * each for each in range(2, 8))
        return HybridShape(model_type=model_type, hybrid_override_pattern="TTT", hidden_size=hidden, **sizes)
    pattern = draw(st.sampled_from(["M-*M", "*M-M-", "M*EM", "E*M*"]))
    return make_moe_shape(
        **sizes,
        hybrid_override_pattern=pattern,
        hidden_size=new.among(range(20, 40)),
        n_groups=groups,
        mamba_num_heads=new.among(groups * each for each in range(3, 10)),
        mamba_head_dim=new.among(range(4, 20)),
        ssm_state_size=32,
        moe_intermediate_size=new.among(range(20, 60)),
        moe_shared_expert_intermediate_size=new.among(range(20, 60)),
    )


@st.composite
def spaces(draw: Any) -> SearchSpace:
    """A space of up to three sizes on three axes, and of one or two depths."""
    source = draw(sources() | shapes(model_types=ARCHITECTURES))

    def can_be(axis: str, size: int) -> bool:
        try:
            check_sizes(source, axis, (size,))
        except MinitronError:
            return False
        return True

    sizes = {}
    axes = [axis for axis in source.family.axes if source.sizes[axis]]
    varied = draw(st.permutations(axes))[:3]
    for axis in axes:
        able = [size for size in range(1, source.sizes[axis] + 1) if can_be(axis, size)][-12:]
        # Of the others a size that any number of GPUs splits, where there is one, so that they do not decide it all.
        split = [size for size in able if size % 12 == 0] or able
        sizes[axis] = tuple(draw(st.permutations(able))[:3] if axis in varied else [draw(st.sampled_from(split))])
    blocks = range(source.num_hidden_layers)
    depths = st.lists(st.sampled_from(blocks), min_size=1, unique=True).map(lambda kept: tuple(sorted(kept)))
    layers = draw(st.lists(depths, min_size=1, max_size=2, unique=True))
    return SearchSpace(source=source, layers=tuple(layers), sizes=sizes)


@settings(max_examples=60)
@given(
    space=spaces(),
    readers=st.tuples(st.sampled_from(["vllm", "tensorrt-llm", "llamacpp"]), st.sampled_from(READERS)).map(set),
    gpus=st.sampled_from([2, 4, 3, 1]),
    keys=st.sampled_from([frozenset(), WITH_HEAD_DIM]),
    share=st.sampled_from([0.3, 0.7, 1.0]),
)
def test_candidates_are_the_best_of_the_shapes_that_every_reader_takes(
    space: SearchSpace, readers: set[Any], gpus: int, keys: frozenset[str], share: float
) -> None:
    everything = every_shape(space)
    if not everything:
        return
    totals = sorted(memory_bytes(shape, WORKLOAD).total_bytes for shape in everything)
    budget = totals[int(share * (len(totals) - 1))]
    asked = sorted(readers)
    serving = Serving(readers=tuple(asked), tensor_parallel=gpus, config_keys=keys)
    within = sorted(
        (
            memory_bytes(shape, WORKLOAD).total_bytes
            for shape in everything
            if takes(shape, asked, gpus, keys) and memory_bytes(shape, WORKLOAD).total_bytes <= budget
        ),
        reverse=True,
    )
    limits = Limits(budget_bytes=budget, serving=serving)
    if not within:
        with pytest.raises(NothingFitsError):
            solve_budget(space, WORKLOAD, limits, top_k=4)
        return
    result = solve_budget(space, WORKLOAD, limits, top_k=4)
    assert [found.memory.total_bytes for found in result.candidates] == within[:4]
    assert all(takes(found.shape, asked, gpus, keys) for found in result.candidates)
    assert result.num_feasible == len(within)
    if keys:
        for found in result.candidates:
            written = config_for_shape(served_config(space.source), found.shape)
            assert not [refusal for name in asked for refusal in check(written, found.shape, name, gpus)]


def test_without_readers_nothing_is_left_out(tiny_shape: HybridShape) -> None:
    space = SearchSpace(source=tiny_shape, layers=(tuple(range(8)),), sizes={"intermediate_size": (36, 35, 34)})
    free = solve_budget(space, WORKLOAD, Limits(budget_bytes=10**9), top_k=9)
    split = Limits(budget_bytes=10**9, serving=Serving(tensor_parallel=2))
    assert solve_budget(space, WORKLOAD, split, top_k=9) == free
    assert free.num_feasible == 3


def test_where_no_shape_suits_a_reader_the_line_names_it_its_rule_and_the_nearest_shape() -> None:
    source = make_tiny_shape(n_groups=1, mamba_num_heads=9, num_key_value_heads=1)
    space = SearchSpace(
        source=source,
        layers=(tuple(range(8)),),
        sizes={"intermediate_size": (36, 34), "mamba_num_heads": (9, 7)},
    )
    limits = Limits(budget_bytes=10**9, serving=Serving(readers=("vllm",), tensor_parallel=2))
    with pytest.raises(NothingFitsError) as caught:
        solve_budget(space, WORKLOAD, limits, top_k=1)
    line = str(caught.value)
    assert "what binds is readers; alone, memory is met by 4, readers is met by 0" in line
    assert "is refused by vllm, for which mamba_num_heads must be a multiple of tensor_parallel=2, got 7" in line
    assert "\n" not in line


def test_the_nearest_shape_is_one_that_the_readers_take() -> None:
    source = make_tiny_shape(num_key_value_heads=1, num_attention_heads=6)
    space = SearchSpace(source=source, layers=(tuple(range(8)),), sizes={"intermediate_size": (36, 35, 33)})
    limits = Limits(budget_bytes=1000, serving=Serving(readers=("vllm",), tensor_parallel=2))
    with pytest.raises(NothingFitsError, match="intermediate_size 36.* needs ") as caught:
        solve_budget(space, WORKLOAD, limits, top_k=1)
    assert "is refused" not in str(caught.value)
