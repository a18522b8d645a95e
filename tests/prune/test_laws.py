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
from minitron.models.shape import HybridShape
from minitron.prune.plan import PrunePlan
from tests.support.exact import ROUNDING, exact_model, logits_of, pruned, tensors_on_disk
from tests.support.hand import kept, sliced_by_hand
from tests.support.models import make_moe_shape
from tests.support.numpy_model import reference
from tests.support.strategies import choose_rows, plans, possible_counts, seeds, shapes, tokens

FEW = settings(max_examples=8)
MAMBA = ("mamba_num_heads", "mamba_head_dim")
FFN = ("intermediate_size", "moe_intermediate_size", "moe_shared_expert_intermediate_size")
# Parameters whose first dim writes to the residual stream, and norms that read it.
WRITERS = (
    "mixer.out_proj.weight",
    "mixer.o_proj.weight",
    "mixer.down_proj.weight",
    "mixer.shared_experts.down_proj.weight",
    "mixer.fc2_latent_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.down_proj.weight",
)
STREAM_NORMS = (
    *(f"layers.{layer}.norm.weight" for layer in range(10)),
    "norm_f.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "model.norm.weight",
)
families = pytest.mark.parametrize("model_type", sorted(FAMILIES))


def blocks_of(model: PreTrainedModel) -> Any:
    backbone: Any = model.base_model
    return backbone.layers


def gone(plan: PrunePlan, axis: str, layer: int) -> list[int]:
    """Units that the plan cuts off."""
    return sorted(set(range(plan.source.sizes[axis])) - set(kept(plan, axis, layer)))


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


@pytest.mark.parametrize(
    ("kinds", "axis", "groups"),
    [("M", "mamba_num_heads", "n_groups"), ("*", "num_attention_heads", "num_key_value_heads"),
     ("T", "num_attention_heads", "num_key_value_heads")],
)  # fmt: skip
@FEW
@given(data=st.data(), seed=seeds)
def test_swapping_units_of_different_groups_does_change_the_logits(
    kinds: str, axis: str, groups: str, data: Any, seed: int
) -> None:
    model_types = [name for name, family in FAMILIES.items() if kinds in family.block_kinds]
    shape = data.draw(shapes(model_types=model_types, kinds=kinds))
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
@FEW
@given(data=st.data(), seed=seeds)
def test_ffn_pruning_equals_zeroing_the_neurons(model_type: str, data: Any, seed: int) -> None:
    kinds = "-E" if model_type == "nemotron_h" else "T"
    shape = data.draw(shapes(model_types=[model_type], kinds=kinds, every_kind=True))
    plan = data.draw(plans(shape, axes=FFN, drop_blocks=False))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    found = logits_of(pruned(model, plan), ids_BT)
    with torch.no_grad():
        for layer, kind in enumerate(shape.hybrid_override_pattern):
            block = blocks_of(model)[layer]
            if kind == "E":
                shared = gone(plan, "moe_shared_expert_intermediate_size", layer)
                block.mixer.shared_experts.up_proj.weight[shared] = 0
                for expert, row in enumerate(plan.keep.indices["moe_intermediate_size", layer]):
                    lost = np.setdiff1d(np.arange(shape.moe_intermediate_size), row)
                    block.mixer.experts.up_proj[expert, lost] = 0
            else:
                mlp = block.mlp if kind == "T" else block.mixer
                mlp.up_proj.weight[gone(plan, "intermediate_size", layer)] = 0
    assert_same(found, logits_of(model, ids_BT))


@families
@FEW
@given(data=st.data(), seed=seeds)
def test_attention_head_pruning_equals_zeroing_what_the_heads_write(model_type: str, data: Any, seed: int) -> None:
    kind = "*" if model_type == "nemotron_h" else "T"
    shape = data.draw(shapes(model_types=[model_type], kinds=kind))
    plan = data.draw(plans(shape, axes=["num_attention_heads"], drop_blocks=False))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    found = logits_of(pruned(model, plan), ids_BT)
    with torch.no_grad():
        for layer, block in enumerate(blocks_of(model)):
            weight_DQ = (block.mixer if kind == "*" else block.self_attn).o_proj.weight
            for head in gone(plan, "num_attention_heads", layer):
                weight_DQ[:, head * shape.head_dim : (head + 1) * shape.head_dim] = 0
    assert_same(found, logits_of(model, ids_BT))


@FEW
@given(data=st.data(), seed=seeds)
def test_expert_pruning_equals_never_routing_to_them(data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=["nemotron_h"], kinds="E"))
    plan = data.draw(plans(shape, axes=["n_routed_experts"], drop_blocks=False))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    barred = {layer: gone(plan, "n_routed_experts", layer) for layer in range(shape.num_hidden_layers)}
    oracle = reference(model.config, tensors_on_disk(model, shape), shape, barred)
    expected = np.stack([oracle.logits(ids_T) for ids_T in ids_BT.numpy()])
    assert_same(logits_of(pruned(model, plan), ids_BT), expected)


@families
@FEW
@given(data=st.data(), seed=seeds)
def test_dropping_blocks_equals_bypassing_them(model_type: str, data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=[model_type]))
    plan = data.draw(plans(shape, axes=()))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    found = logits_of(pruned(model, plan), ids_BT)
    for layer in set(range(shape.num_hidden_layers)) - set(plan.keep.layers):
        blocks_of(model)[layer].register_forward_hook(
            lambda _block, args, kwargs, _output: args[0] if args else kwargs["hidden_states"], with_kwargs=True
        )
    torch.testing.assert_close(found, logits_of(model, ids_BT), rtol=0, atol=0)


@FEW
@given(data=st.data(), seed=seeds)
def test_mamba_pruning_equals_the_scan_of_the_kept_heads_and_channels(data: Any, seed: int) -> None:
    """The kept part of the scan is the scan of the kept part; only the gated norm sees fewer channels."""
    shape = data.draw(shapes(model_types=["nemotron_h"], kinds="M"))
    plan = data.draw(plans(shape, axes=MAMBA, drop_blocks=False))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    assert_same(logits_of(pruned(model, plan), ids_BT), reference_logits(plan, model, ids_BT))


@families
@FEW
@given(data=st.data(), seed=seeds)
def test_hidden_channel_pruning_equals_the_reference_on_fewer_channels(model_type: str, data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape, axes=["hidden_size"], drop_blocks=False))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    assert_same(logits_of(pruned(model, plan), ids_BT), reference_logits(plan, model, ids_BT))


@families
@settings(max_examples=12)
@given(data=st.data(), seed=seeds)
def test_any_plan_equals_the_reference_on_weights_sliced_by_hand(model_type: str, data: Any, seed: int) -> None:
    check_any_plan(model_type, data, seed)


@pytest.mark.slow
@families
@settings(max_examples=400)
@given(data=st.data(), seed=seeds)
def test_many_plans_equal_the_reference_on_weights_sliced_by_hand(model_type: str, data: Any, seed: int) -> None:
    check_any_plan(model_type, data, seed)


def check_any_plan(model_type: str, data: Any, seed: int) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    assert_same(logits_of(pruned(model, plan), ids_BT), reference_logits(plan, model, ids_BT))


@families
@FEW
@given(data=st.data(), seed=seeds)
def test_hidden_channel_pruning_equals_zeroing_the_channels_but_for_the_mean_of_the_norms(
    model_type: str, data: Any, seed: int
) -> None:
    """A norm over D channels of which only d are not 0 divides by sqrt(sum / D + eps), the pruned one by
    sqrt(sum / d + eps): its weight times sqrt(d / D) and its eps times d / D give the pruned norm exactly."""
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape, axes=["hidden_size"], drop_blocks=False))
    lost = sorted(set(range(shape.hidden_size)) - set(kept(plan, "hidden_size", None)))
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    found = logits_of(pruned(model, plan), ids_BT)
    share = plan.target.hidden_size / shape.hidden_size
    embeddings: Any = model.get_input_embeddings()
    with torch.no_grad():
        embeddings.weight[:, lost] = 0
        for name, parameter in model.named_parameters():
            if name.endswith(WRITERS):
                parameter[lost] = 0
            elif name.endswith("mixer.experts.down_proj") and not shape.moe_latent_size:
                parameter[:, lost] = 0
            elif name.endswith(STREAM_NORMS):
                parameter *= share**0.5
        for name, module in model.named_modules():
            if f"{name}.weight".endswith(STREAM_NORMS):
                module.variance_epsilon *= share
    assert_same(found, logits_of(model, ids_BT))


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
    kind = data.draw(st.sampled_from("M-*ET"))
    model_types = [name for name, family in FAMILIES.items() if kind in family.block_kinds]
    shape = data.draw(shapes(model_types=model_types, kinds=kind))
    axis = data.draw(st.sampled_from([axis for axis in shape.family.axes.values() if kind in (axis.blocks or "")]))
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
    # Published models do not group their experts; how many groups a token may go to is no dim.
    apart = {*shape.family.switches, "topk_group"} | ({"n_group"} if shape.n_group == 1 else set())
    sizes = [size for name, size in shape.config_sizes.items() if name not in apart]
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) > 1


def test_the_tiny_hybrid_has_distinct_dims(tiny_shape: HybridShape) -> None:
    sizes = list(tiny_shape.config_sizes.values())
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) > 1
