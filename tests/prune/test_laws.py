"""The laws of surgery: what pruning must equal, whatever the model. Models compute in fp64; tolerances are rounding."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from minitron.models.families import FAMILIES
from minitron.models.keep import Keep
from minitron.models.shape import FFN_AXIS, HybridShape
from minitron.prune.laws.laws import TOKENS, laws_of
from minitron.prune.laws.tiny_model import tiny_model
from minitron.prune.laws.zeroing import zeroed
from minitron.prune.plan import PrunePlan
from minitron.runtime.backbone import blocks_of
from tests.support.exact import ROUNDING, exact_model, logits_of, pruned, tensors_on_disk
from tests.support.hand import sliced_by_hand
from tests.support.models import config_json, make_config, make_moe_shape
from tests.support.numpy_model import reference
from tests.support.strategies import choose_rows, plans, possible_counts, seeds, shapes, tokens

FEW = settings(max_examples=6)
families = pytest.mark.parametrize("model_type", sorted(FAMILIES))
with_experts = pytest.mark.parametrize(
    "model_type", sorted(name for name, family in FAMILIES.items() if "n_routed_experts" in family.axes)
)
# (family, axis, what groups it)
GROUPED = [
    (name, axis.name, axis.grouped_by)
    for name, family in FAMILIES.items()
    for axis in family.axes.values()
    if axis.grouped_by not in (None, "n_group")
]


def plan_of(shape: HybridShape, indices: dict[tuple[str, int | None], Any]) -> PrunePlan:
    """A plan that keeps all blocks and is not checked, so that it may break groups."""
    keep = Keep(
        layers=tuple(range(shape.num_hidden_layers)),
        indices={key: np.asarray(kept, dtype=np.int64) for key, kept in indices.items()},
    )
    plan = PrunePlan(source=shape, target=shape, keep=Keep(layers=keep.layers, indices={}))
    object.__setattr__(plan, "keep", keep)
    return plan


def assert_same(found: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected), **ROUNDING)


def change(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative distance of two models' logits."""
    return float((found - expected).norm() / expected.norm())


def reference_logits(plan: PrunePlan, model: PreTrainedModel, ids_BT: torch.Tensor) -> Any:
    """[B, T, V] logits of the reference on weights that were sliced by hand."""
    weights = sliced_by_hand(tensors_on_disk(model, plan.source), plan)
    oracle = reference(model.config, weights, plan.target)
    return np.stack([oracle.logits(ids_T) for ids_T in ids_BT.numpy()])


@families
@FEW
@given(data=st.data(), seed=seeds)
def test_the_reference_gives_the_logits_of_transformers(model_type: str, data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    oracle = reference(model.config, tensors_on_disk(model, shape), shape)
    assert_same(logits_of(model, ids_BT), np.stack([oracle.logits(ids_T) for ids_T in ids_BT.numpy()]))


@families
@FEW
@given(data=st.data(), seed=seeds)
def test_full_width_in_any_order_changes_nothing(model_type: str, data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    axes = shape.family.axes
    plan = data.draw(plans(shape, axes=axes, full_width=True, drop_blocks=False))
    assert {axis for axis, _ in plan.keep.indices} == set(axes)
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    assert_same(logits_of(pruned(model, plan), ids_BT), logits_of(model, ids_BT))


@pytest.mark.parametrize(("model_type", "axis", "groups"), GROUPED)
@settings(max_examples=3)
@given(data=st.data(), seed=seeds)
def test_swapping_units_of_different_groups_does_change_the_logits(
    model_type: str, axis: str, groups: str, data: Any, seed: int
) -> None:
    family = FAMILIES[model_type]
    shape = data.draw(shapes(model_types=[model_type], kinds=family.axes[axis].blocks))
    assert change_of_swapping(shape, axis, groups, seed=seed) > 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_swapping_experts_of_different_groups_does_change_the_logits(seed: int) -> None:
    """Of a fixed model: where every token goes to the same groups, there is nothing to confuse."""
    assert change_of_swapping(make_moe_shape(), "n_routed_experts", "n_group", seed=seed) > 1e-4


def change_of_swapping(shape: HybridShape, axis: str, groups: str, *, seed: int) -> float:
    """What exchanging the first units of two groups does to the logits."""
    order = np.arange(shape.sizes[axis]).reshape(shape.sizes[groups], -1)
    order[[0, 1], 0] = order[[1, 0], 0]
    layers = shape.layers_of(shape.family.axes[axis].blocks or "")
    plan = plan_of(shape, {(axis, layer): order.ravel() for layer in layers})
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed, length=23)
    return change(logits_of(pruned(model, plan), ids_BT), logits_of(model, ids_BT))


@families
@settings(max_examples=2)
@given(data=st.data(), seed=seeds)
def test_every_law_of_the_package_holds(model_type: str, data: Any, seed: int) -> None:
    """Counted; in any order; cut as put out of action; and seen, so that the laws before can fail."""
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    model = tiny_model(config_json(make_config(shape)), shape, seed=seed)
    found = list(laws_of(model, shape, seed=seed))
    assert [finding for finding in found if not finding.holds] == []
    assert {finding.axis for finding in found if finding.law == "cut"} == {
        *(name for name in shape.family.axes if shape.sizes[name]),
        "num_hidden_layers",
    }


@families
@FEW
@given(data=st.data(), seed=seeds)
def test_any_plan_equals_putting_out_of_action_what_it_cuts(model_type: str, data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape))
    model, ids_BT = exact_model(shape, seed=seed), few_tokens(plan.target, seed)
    found = logits_of(pruned(model, plan), ids_BT)
    with zeroed(model, plan):
        assert_same(found, logits_of(model, ids_BT))


def few_tokens(shape: HybridShape, seed: int) -> torch.Tensor:
    """[1, T] ids, not more than hidden channels, so that routers can be told off."""
    return tokens(shape, seed, batch=1, length=min(TOKENS, shape.hidden_size))


@with_experts
@FEW
@given(data=st.data(), seed=seeds)
def test_expert_pruning_equals_never_routing_to_them(model_type: str, data: Any, seed: int) -> None:
    kinds = FAMILIES[model_type].axes["n_routed_experts"].blocks
    shape = data.draw(shapes(model_types=[model_type], kinds=kinds))
    plan = data.draw(plans(shape, axes=["n_routed_experts"], drop_blocks=False))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    barred = {layer: gone(plan, "n_routed_experts", layer) for layer in range(shape.num_hidden_layers)}
    oracle = reference(model.config, tensors_on_disk(model, shape), shape, barred)
    expected = np.stack([oracle.logits(ids_T) for ids_T in ids_BT.numpy()])
    assert_same(logits_of(pruned(model, plan), ids_BT), expected)


def gone(plan: PrunePlan, axis: str, layer: int) -> list[int]:
    """Units that the plan cuts off."""
    return sorted(set(range(plan.source.sizes[axis])) - set(plan.keep.indices[axis, layer].tolist()))


@families
@settings(max_examples=12)
@given(data=st.data(), seed=seeds)
def test_any_plan_equals_the_reference_on_weights_sliced_by_hand(model_type: str, data: Any, seed: int) -> None:
    check_any_plan(model_type, data, seed)


@pytest.mark.slow
@families
@settings(max_examples=60)
@given(data=st.data(), seed=seeds)
def test_many_plans_equal_the_reference_on_weights_sliced_by_hand(model_type: str, data: Any, seed: int) -> None:
    check_any_plan(model_type, data, seed)


def check_any_plan(model_type: str, data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    assert_same(logits_of(pruned(model, plan), ids_BT), reference_logits(plan, model, ids_BT))


def test_dropping_the_ssm_is_seen(tiny_shape: HybridShape) -> None:
    """The negative control: with weights whose SSM does nothing, every law above would hold for wrong surgery."""
    assert change_without_ssm(tiny_shape, seed=0) > 0.1


@FEW
@given(shape=shapes(model_types=["nemotron_h"], kinds="M"), seed=seeds)
def test_dropping_the_ssm_of_any_model_is_seen(shape: HybridShape, seed: int) -> None:
    """Two blocks of a dozen channels change the logits by less than the tiny hybrid's: by a million times rounding."""
    assert change_without_ssm(shape, seed=seed) > 0.01


def change_without_ssm(shape: HybridShape, *, seed: int) -> float:
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    before = logits_of(model, ids_BT)
    with torch.no_grad():
        for layer in shape.layers_of("M"):
            mixer = blocks_of(model)[layer].mixer
            mixer.dt_bias.fill_(-60.0)  # dt = softplus(-60) = 0: the state never takes anything in
            mixer.in_proj.weight[-shape.mamba_num_heads :] = 0
    return change(logits_of(model, ids_BT), before)


@given(data=st.data())
def test_kept_counts_must_agree_over_blocks(data: Any) -> None:
    kind = data.draw(st.sampled_from("M-*ETSNHGX"))
    model_types = [name for name, family in FAMILIES.items() if kind in family.block_kinds]
    shape = data.draw(shapes(model_types=model_types, kinds=kind))
    # FFN widths may differ by block: tests/prune/test_block_widths.py.
    axes = [axis for axis in shape.family.axes.values() if kind in (axis.blocks or "") and axis.name != FFN_AXIS]
    assume(axes)
    axis = data.draw(st.sampled_from(axes))
    counts = sorted(set(possible_counts(shape, axis)) | {shape.sizes[axis.name]})
    few, many = counts[0], counts[-1]
    assume(few != many)
    rng = np.random.default_rng(0)
    indices = {(axis.name, layer): choose_rows(rng, shape, axis, kept) for layer, kept in enumerate((few, many))}
    layers = tuple(range(shape.num_hidden_layers))
    with pytest.raises(ValueError, match=f"every block must keep the same number of {axis.name}"):
        Keep(layers=layers, indices=indices).shape(shape)


@given(shape=shapes())
def test_the_random_shapes_have_distinct_dims(shape: HybridShape) -> None:
    # Published models do not group their experts; how many experts, groups or tokens are seen is no dim.
    apart = {*shape.family.switches, "topk_group", "sliding_window", "num_experts_per_tok"}
    apart |= {"n_group"} if shape.n_group == 1 else set()
    spellings = {spellings[0]: key for key, spellings in shape.family.config_keys.items()}
    sizes = [size for name, size in shape.config_sizes.items() if spellings[name] not in apart]
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) > 1


def test_the_tiny_hybrid_has_distinct_dims(tiny_shape: HybridShape) -> None:
    sizes = list(tiny_shape.config_sizes.values())
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) > 1
