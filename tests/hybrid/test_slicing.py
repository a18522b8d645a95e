"""The laws of surgery: what pruning must equal, whatever the model."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.hybrid.shape import HybridShape
from minitron.hybrid.slicing import Keep, slice_tensors
from tests.conftest import make_tiny_model, make_tiny_shape

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def logits_of(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids_BT, use_cache=False).logits
    return logits


def prune_in_memory(model: PreTrainedModel, shape: HybridShape, keep: Keep) -> PreTrainedModel:
    """A model of what `keep` leaves, filled by the generic slicing from the source's state."""
    family = shape.family
    state = model.state_dict()
    pruned = make_tiny_model(keep.shape(shape), seed=99)
    tensors = slice_tensors(lambda name: state[family.name_in_memory(name)], shape, keep)
    pruned.load_state_dict({family.name_in_memory(name): tensor for name, tensor in tensors}, strict=True)
    return pruned


def keep_of(shape: HybridShape, indices: dict[tuple[str, int | None], Any], layers: list[int] | None = None) -> Keep:
    return Keep(
        layers=tuple(range(shape.num_hidden_layers) if layers is None else layers),
        indices={key: np.asarray(kept, dtype=np.int64) for key, kept in indices.items()},
    )


def mixer_of(model: PreTrainedModel, layer: int) -> Any:
    blocks: Any = model.base_model
    return blocks.layers[layer].mixer


def zero(parameter: torch.Tensor, rows: Any) -> None:
    with torch.no_grad():
        parameter[rows] = 0


@pytest.mark.parametrize("seed", range(3))
def test_pruning_to_full_width_in_any_order_changes_nothing(
    tiny_shape: HybridShape, tiny_model: PreTrainedModel, token_ids: torch.Tensor, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    indices: dict[tuple[str, int | None], Any] = {("hidden_size", None): rng.permutation(tiny_shape.hidden_size)}
    for layer, kind in enumerate(tiny_shape.hybrid_override_pattern):
        if kind == "-":
            indices["intermediate_size", layer] = rng.permutation(tiny_shape.intermediate_size)
        elif kind == "M":
            per_group = tiny_shape.mamba_num_heads // tiny_shape.n_groups
            groups = [group * per_group + rng.permutation(per_group) for group in range(tiny_shape.n_groups)]
            indices["mamba_num_heads", layer] = np.concatenate(groups)
            indices["mamba_head_dim", layer] = rng.permutation(tiny_shape.mamba_head_dim)
        else:
            per_kv = tiny_shape.num_attention_heads // tiny_shape.num_key_value_heads
            kvs = [kv * per_kv + rng.permutation(per_kv) for kv in range(tiny_shape.num_key_value_heads)]
            indices["num_attention_heads", layer] = np.concatenate(kvs)
    permuted = prune_in_memory(tiny_model, tiny_shape, keep_of(tiny_shape, indices))
    torch.testing.assert_close(logits_of(permuted, token_ids), logits_of(tiny_model, token_ids), **EXACT)


def test_permuting_heads_across_groups_does_change_the_logits(
    tiny_shape: HybridShape, tiny_model: PreTrainedModel, token_ids: torch.Tensor
) -> None:
    swapped = keep_of(tiny_shape, {("mamba_num_heads", 0): [4, 1, 2, 3, 0, 5, 6, 7]})
    changed = logits_of(prune_in_memory(tiny_model, tiny_shape, swapped), token_ids)
    assert (changed - logits_of(tiny_model, token_ids)).abs().max() > 1e-3


def test_ffn_pruning_equals_zeroing_the_neurons(
    tiny_shape: HybridShape, tiny_model: PreTrainedModel, token_ids: torch.Tensor
) -> None:
    rng = np.random.default_rng(0)
    layers = tiny_shape.layers_of("-")
    kept = {("intermediate_size", layer): np.sort(rng.permutation(36)[:23]) for layer in layers}
    pruned = prune_in_memory(tiny_model, tiny_shape, keep_of(tiny_shape, kept))
    for layer in layers:
        gone = np.setdiff1d(np.arange(36), kept["intermediate_size", layer])
        zero(mixer_of(tiny_model, layer).up_proj.weight, gone)
    torch.testing.assert_close(logits_of(pruned, token_ids), logits_of(tiny_model, token_ids), **EXACT)


def test_attention_head_pruning_equals_zeroing_the_heads(
    tiny_shape: HybridShape, tiny_model: PreTrainedModel, token_ids: torch.Tensor
) -> None:
    layers = tiny_shape.layers_of("*")
    kept = {("num_attention_heads", layer): [0, 3, 5] for layer in layers}  # one of two in each KV group
    pruned = prune_in_memory(tiny_model, tiny_shape, keep_of(tiny_shape, kept))
    for layer in layers:
        weight_DQ = mixer_of(tiny_model, layer).o_proj.weight
        for head in (1, 2, 4):
            zero(weight_DQ, (slice(None), slice(head * 10, (head + 1) * 10)))
    torch.testing.assert_close(logits_of(pruned, token_ids), logits_of(tiny_model, token_ids), **EXACT)


def test_dropping_blocks_equals_bypassing_them(
    tiny_shape: HybridShape, tiny_model: PreTrainedModel, token_ids: torch.Tensor
) -> None:
    pruned = prune_in_memory(tiny_model, tiny_shape, keep_of(tiny_shape, {}, layers=[0, 2, 4, 5, 6]))
    backbone: Any = tiny_model.base_model
    for layer in (1, 3, 7):
        backbone.layers[layer].register_forward_hook(
            lambda _block, args, kwargs, _output: args[0] if args else kwargs["hidden_states"], with_kwargs=True
        )
    torch.testing.assert_close(logits_of(pruned, token_ids), logits_of(tiny_model, token_ids), **EXACT)


@pytest.mark.parametrize(
    ("heads", "channels"), [([0, 3, 5, 6], [0, 1, 2, 3, 4]), (list(range(8)), [1, 4]), ([1, 2, 4, 7], [0, 3, 4])]
)
def test_mamba_pruning_equals_an_independent_slow_mixer(
    tiny_shape: HybridShape, tiny_model: PreTrainedModel, heads: list[int], channels: list[int]
) -> None:
    """The kept part of the scan is the scan of the kept part; only the gated norm sees fewer channels."""
    keep = keep_of(tiny_shape, {("mamba_num_heads", 0): heads, ("mamba_head_dim", 0): channels})
    only = Keep(layers=(0,), indices=keep.indices)
    pruned = prune_in_memory(tiny_model, tiny_shape, only)
    x_TD = torch.randn(13, tiny_shape.hidden_size, generator=torch.Generator().manual_seed(3))
    expected_TD = slow_mixer(mixer_of(tiny_model, 0), x_TD.double(), tiny_shape, heads, channels)
    with torch.no_grad():
        found_TD = mixer_of(pruned, 0)(x_TD[None])[0]
    torch.testing.assert_close(found_TD.double(), expected_TD, rtol=1e-5, atol=1e-6)


def test_dropping_the_ssm_is_seen(tiny_model: PreTrainedModel, token_ids: torch.Tensor) -> None:
    """The negative control: with weights whose SSM does nothing, every law above would hold for wrong surgery."""
    before = logits_of(tiny_model, token_ids)
    for module in tiny_model.modules():
        if hasattr(module, "dt_bias"):
            with torch.no_grad():
                module.dt_bias.fill_(-60.0)  # dt = softplus(-60) = 0: the state never takes anything in
                module.in_proj.weight[-module.num_heads :] = 0
    change = (logits_of(tiny_model, token_ids) - before).norm() / before.norm()
    assert change > 0.1


def test_kept_counts_must_agree_over_blocks(tiny_shape: HybridShape) -> None:
    first, second = tiny_shape.layers_of("-")[:2]
    uneven = keep_of(
        tiny_shape,
        {("intermediate_size", first): range(4), ("intermediate_size", second): range(5)},
        layers=[first, second],
    )
    with pytest.raises(ValueError, match="every block must keep the same number of intermediate_size"):
        uneven.shape(tiny_shape)


def test_the_tiny_hybrid_has_distinct_dims() -> None:
    sizes = list(make_tiny_shape().config_sizes.values())
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) > 1


def slow_mixer(
    mixer: nn.Module, x_TD: torch.Tensor, shape: HybridShape, heads: list[int], channels: list[int]
) -> torch.Tensor:
    """Mamba-2 step by step in fp64 over chosen heads and channels (recurrence and letters of arXiv 2405.21060)."""
    weights = {name: parameter.detach().double() for name, parameter in mixer.named_parameters()}
    H, P, G, N = shape.mamba_num_heads, shape.mamba_head_dim, shape.n_groups, shape.ssm_state_size
    inner = H * P
    projected = x_TD @ weights["in_proj.weight"].T
    z, xBC, dt = projected.split([inner, inner + 2 * G * N, H], dim=-1)
    kernel = weights["conv1d.weight"][:, 0]
    padded = torch.cat([torch.zeros(kernel.shape[1] - 1, xBC.shape[1], dtype=xBC.dtype), xBC])
    conv = torch.stack([(padded[t : t + kernel.shape[1]] * kernel.T).sum(0) for t in range(len(xBC))])
    xBC = nn.functional.silu(conv + weights["conv1d.bias"])
    x, B, C = xBC.split([inner, G * N, G * N], dim=-1)
    dt = nn.functional.softplus(dt + weights["dt_bias"])
    A = -weights["A_log"].exp()
    out = torch.zeros(len(x_TD), len(heads), len(channels), dtype=torch.float64)
    for slot, h in enumerate(heads):
        state = torch.zeros(P, N, dtype=torch.float64)
        group = h // (H // G)
        for t in range(len(x_TD)):
            x_P = x[t, h * P : (h + 1) * P]
            state = torch.exp(dt[t, h] * A[h]) * state + dt[t, h] * torch.outer(x_P, B[t, group * N : (group + 1) * N])
            y_P = state @ C[t, group * N : (group + 1) * N] + weights["D"][h] * x_P
            gated_P = y_P * nn.functional.silu(z[t, h * P : (h + 1) * P])
            out[t, slot] = gated_P[channels]
    positions = [h * P + c for h in heads for c in channels]
    grouped = out.reshape(len(x_TD), G, -1)
    normed = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + 1e-5)
    return (normed.reshape(len(x_TD), -1) * weights["norm.weight"][positions]) @ weights["out_proj.weight"][
        :, positions
    ].T
