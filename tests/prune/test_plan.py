"""Plans that cannot be carried out are refused; the others survive their file and say how they differ."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.models.axes import Indices
from minitron.models.families import FAMILIES
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.plan import PrunePlan, load_plan, save_plan
from minitron.prune.plan_summary import as_runs, describe_plan, diff_plans
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape
from tests.support.strategies import plans, shapes

FEW = settings(max_examples=15)
families = pytest.mark.parametrize("model_type", sorted(FAMILIES))


def plan_of(shape: HybridShape, indices: dict[tuple[str, int | None], Any]) -> PrunePlan:
    """The plan that keeps all blocks and these units."""
    keep = Keep(
        layers=tuple(range(shape.num_hidden_layers)),
        indices={key: np.asarray(kept, dtype=np.int64) for key, kept in indices.items()},
    )
    return PrunePlan(source=shape, target=keep.shape(shape), keep=keep)


def everywhere(shape: HybridShape, axis: str, kept: Any) -> PrunePlan:
    """The plan that keeps the same units in every block of the axis."""
    layers = shape.layers_of(shape.family.axes[axis].blocks or "")
    return plan_of(shape, {(axis, layer): kept for layer in layers})


@pytest.mark.parametrize(
    ("shape", "axis", "kept"),
    [
        (make_tiny_shape(), "mamba_num_heads", [0, 1, 2, 4]),
        (make_tiny_shape(), "mamba_num_heads", [4, 5, 0, 1]),
        (make_tiny_shape(), "mamba_num_heads", [0, 4, 1, 5]),
        (make_tiny_shape(), "num_attention_heads", [0, 1, 2]),
        (make_moe_shape(), "n_routed_experts", [0, 1, 2, 5, 6, 7, 8, 10, 11]),
        (make_dense_shape("llama"), "num_attention_heads", [0, 1, 4]),
        (make_dense_shape("qwen3"), "num_attention_heads", [2, 3, 4]),
    ],
)
def test_kept_units_must_come_evenly_from_the_groups_in_their_order(
    shape: HybridShape, axis: str, kept: list[int]
) -> None:
    with pytest.raises(ValueError, match=rf"kept {axis} at layer \d must take the same number from each of \d groups"):
        everywhere(shape, axis, kept)


@pytest.mark.parametrize("kept", [[0, 0, 1], [0, 1, 36], [-1, 0, 1]])
def test_kept_units_must_be_distinct_and_in_range(kept: list[int]) -> None:
    with pytest.raises(ValueError, match="kept indices of intermediate_size at layer 1 must be distinct and below 36"):
        everywhere(make_tiny_shape(), "intermediate_size", kept)


@pytest.mark.parametrize("row", [[0, 0, 1], [0, 1, 11]])
def test_every_expert_must_keep_distinct_neurons_in_range(row: list[int]) -> None:
    rows = np.tile(np.arange(3), (15, 1))
    rows[14] = row
    with pytest.raises(ValueError, match="kept indices of moe_intermediate_size .* must be distinct and below 11"):
        everywhere(make_moe_shape(), "moe_intermediate_size", rows)


@pytest.mark.parametrize("rows", [np.tile(np.arange(3), (14, 1)), np.arange(3)])
def test_every_expert_needs_a_row(rows: Indices) -> None:
    with pytest.raises(ValueError, match="must be a row for each of 15 n_routed_experts, got the shape"):
        everywhere(make_moe_shape(), "moe_intermediate_size", rows)


def test_a_token_must_find_as_many_experts_as_it_goes_to() -> None:
    with pytest.raises(ValueError, match="n_routed_experts must be at least 6 for num_experts_per_tok=4, got 3"):
        everywhere(make_moe_shape(), "n_routed_experts", [0, 5, 10])


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        (make_moe_shape(num_experts_per_tok=2), [0, 5, 10]),
        (make_moe_shape(num_experts_per_tok=1, n_group=1, topk_group=1), [3]),
    ],
)
def test_a_group_must_keep_the_two_experts_that_it_is_ranked_by(shape: HybridShape, kept: list[int]) -> None:
    with pytest.raises(ValueError, match="n_routed_experts"):
        everywhere(shape, "n_routed_experts", kept)


def test_a_token_must_find_its_experts_in_the_groups_that_it_may_go_to() -> None:
    """Of groups of two a token of the tiny models, whose topk_group is 2, finds only four of its five experts."""
    with pytest.raises(ValueError, match="num_experts_per_tok"):
        everywhere(make_moe_shape(num_experts_per_tok=5), "n_routed_experts", [0, 1, 5, 6, 10, 11])


@pytest.mark.parametrize("hidden", [23, 20])
def test_llama_needs_a_hidden_size_that_its_heads_divide(hidden: int) -> None:
    with pytest.raises(ValueError, match=f"hidden_size must be a multiple of num_attention_heads=6, got {hidden}"):
        plan_of(make_dense_shape("llama"), {("hidden_size", None): range(hidden)})
    assert plan_of(make_dense_shape("qwen3"), {("hidden_size", None): range(hidden)}).target.hidden_size == hidden


def test_a_target_that_is_not_what_is_left_is_refused() -> None:
    plan = everywhere(make_tiny_shape(), "intermediate_size", range(5))
    with pytest.raises(ValueError, match="kept indices must lead to the target"):
        replace(plan, target=plan.target.resized(intermediate_size=6))


def test_a_scaled_tensor_must_be_one_of_the_sources() -> None:
    plan = everywhere(make_tiny_shape(), "intermediate_size", range(5))
    with pytest.raises(ValueError, match="a scaled tensor must be one of the source's, got nothing.weight"):
        replace(plan, scales={"nothing.weight": 2.0})


@families
@FEW
@given(data=st.data())
def test_a_plan_survives_its_file(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type]))
    plan = data.draw(plans(shape))
    scaled = data.draw(st.sets(st.sampled_from(sorted(shape.tensors())), max_size=2))
    plan = replace(plan, scales={name: 1 + 0.1 * number for number, name in enumerate(sorted(scaled))})
    with tempfile.TemporaryDirectory() as folder:
        save_plan(plan, Path(folder) / "plan.safetensors")
        loaded = load_plan(Path(folder) / "plan.safetensors")
    assert (loaded.source, loaded.target, loaded.keep.layers) == (plan.source, plan.target, plan.keep.layers)
    assert dict(loaded.scales) == dict(plan.scales)
    assert set(loaded.keep.indices) == set(plan.keep.indices)
    for key, kept in plan.keep.indices.items():
        np.testing.assert_array_equal(loaded.keep.indices[key], kept)
    assert diff_plans(plan, loaded)["same"]
    assert describe_plan(loaded) == describe_plan(plan)


def from_runs(runs: str) -> list[int]:
    ends = [[int(end) for end in run.split("-")] for run in runs.split(",") if run]
    return [index for run in ends for index in range(run[0], run[-1] + 1)]


@given(st.lists(st.integers(0, 40), unique=True))
def test_runs_say_every_index_in_its_order(kept: list[int]) -> None:
    assert from_runs(as_runs(kept)) == kept
    assert from_runs(as_runs(sorted(kept))) == sorted(kept)


@families
@FEW
@given(data=st.data())
def test_a_described_plan_can_be_carried_out_again(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type]))
    plan = data.draw(plans(shape))
    told = describe_plan(plan)
    assert told["params"] == {"before": plan.source.params, "after": plan.target.params}
    assert sorted([*told["layers"], *told["removed_layers"]]) == list(range(shape.num_hidden_layers))
    rows: dict[tuple[str, int | None], list[list[int]]] = {}
    for cut in told["cuts"]:
        kept = from_runs(cut["indices"])
        assert (len(kept), cut["of"]) == (cut["kept"], shape.sizes[cut["axis"]])
        rows.setdefault((cut["axis"], cut["layer"]), []).append(kept)
    indices = {
        key: np.array(found if shape.family.axes[key[0]].per else found[0], dtype=np.int64)
        for key, found in rows.items()
    }
    keep = Keep(layers=tuple(told["layers"]), indices=indices)
    assert diff_plans(plan, PrunePlan(source=shape, target=plan.target, keep=keep))["same"]


@families
@FEW
@given(data=st.data())
def test_the_difference_of_two_plans_is_the_same_seen_from_either(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type]))
    one, other = data.draw(plans(shape)), data.draw(plans(shape))
    there, back = diff_plans(one, other), diff_plans(other, one)
    assert there["same"] == back["same"]
    assert there["scales_differ"] == back["scales_differ"]
    assert there["params"] == swapped(back["params"], "first", "second")
    assert there["sizes"] == {axis: swapped(sizes, "first", "second") for axis, sizes in back["sizes"].items()}
    assert there["layers_only_first"] == back["layers_only_second"]
    assert there["layers_only_second"] == back["layers_only_first"]
    assert there["cuts"] == [swapped(cut, "only_first", "only_second") for cut in back["cuts"]]


def swapped(found: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    return {**found, one: found[other], other: found[one]}


@families
@FEW
@given(data=st.data())
def test_the_difference_is_what_one_plan_keeps_of_a_block_that_both_keep(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type]))
    one, other = data.draw(plans(shape)), data.draw(plans(shape))
    found = {
        (cut["axis"], cut["layer"], cut["entry"]): (
            set(from_runs(cut["only_first"])),
            set(from_runs(cut["only_second"])),
        )
        for cut in diff_plans(one, other)["cuts"]
    }
    expected = {}
    for axis in shape.family.axes.values():
        for layer in [None] if axis.blocks is None else shape.layers_of(axis.blocks):
            if layer is not None and layer not in set(one.keep.layers) & set(other.keep.layers):
                continue
            for entry in [None] if axis.per is None else range(shape.sizes[axis.per]):
                a, b = (units(plan, axis.name, layer, entry) for plan in (one, other))
                if a != b:
                    expected[axis.name, layer, entry] = (a - b, b - a)
    assert found == expected


def units(plan: PrunePlan, axis: str, layer: int | None, entry: int | None) -> set[int]:
    kept = plan.keep.indices.get((axis, layer), np.arange(plan.source.sizes[axis]))
    return set((kept if entry is None or kept.ndim == 1 else kept[entry]).tolist())


@families
@FEW
@given(data=st.data())
def test_a_plan_does_not_differ_from_itself(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type]))
    plan = data.draw(plans(shape))
    found = diff_plans(plan, plan)
    assert found["same"]
    assert not any(found[part] for part in ("cuts", "sizes", "layers_only_first", "layers_only_second"))


@families
@FEW
@given(data=st.data())
def test_an_order_is_no_difference(model_type: str, data: Any) -> None:
    """Plans that keep the same units in different orders write different tensors, but models that do the same."""
    shape = data.draw(shapes(model_types=[model_type]))
    plan = data.draw(plans(shape, axes=["hidden_size"], drop_blocks=False))
    kept = plan.keep.indices["hidden_size", None]
    turned = replace(plan, keep=replace(plan.keep, indices={("hidden_size", None): kept[::-1].copy()}))
    assert diff_plans(plan, turned)["same"]


def test_plans_of_different_sources_are_not_compared() -> None:
    one = everywhere(make_tiny_shape(), "intermediate_size", range(5))
    other = everywhere(make_tiny_shape(hidden_size=26), "intermediate_size", range(5))
    with pytest.raises(ValueError, match="plans must start from one shape to be compared"):
        diff_plans(one, other)
