"""Compensated norms: the factor is the least squares one, measured by hand, and it is in what is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.prune.norm_compensation import norm_scales
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.support.models import make_dense_shape, make_tiny_shape, write_tiny_checkpoint

SHAPES = [make_tiny_shape(), make_dense_shape("qwen3", tie_word_embeddings=1)]


def make_samples(*, padded: bool) -> Samples:
    ids = np.random.default_rng(3).integers(3, 271, (5, 13)).astype(np.int32)
    return Samples(token_ids=ids, lengths=np.array([13, 4, 9, 13, 1]) if padded else None)


def make_plan(shape: HybridShape, hidden_size: int) -> PrunePlan:
    layers = tuple(layer for layer in range(shape.num_hidden_layers) if layer != 1)
    target = shape.resized(layers=layers, hidden_size=hidden_size)
    return PrunePlan(
        source=shape, target=target, keep=select_units(random_scores(shape, seed=1), shape, target, layers)
    )


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.model_type)
@pytest.mark.parametrize("padded", [False, True])
def test_each_factor_is_the_least_squares_one(tmp_path: Path, shape: HybridShape, padded: bool) -> None:
    folder = write_tiny_checkpoint(tmp_path / "teacher", shape=shape)
    model, samples, plan = load_model(folder), make_samples(padded=padded), make_plan(shape, 18)
    kept = plan.keep.indices["hidden_size", None]
    heard: dict[str, list[Any]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: heard.setdefault(name, []).append(args[0][0].double().numpy())
        )
        for name, module in model.named_modules()
        if len(list(module.children())) == 0 and getattr(module, "weight", None) is not None
    ]
    lengths = [13] * 5 if samples.lengths is None else samples.lengths.tolist()
    with torch.no_grad():
        for ids, length in zip(samples.token_ids, lengths, strict=True):
            model(torch.from_numpy(ids[None, :length].astype(np.int64)), use_cache=False)
    for handle in handles:
        handle.remove()
    found = norm_scales(MemoryStack(model, shape), samples, plan, batch_size=2)
    assert len(found) == (plan.target.num_hidden_layers * (2 if shape.model_type == "qwen3" else 1)) + 1
    for name, scale in found.items():
        x_ND = np.concatenate(heard[shape.family.name_in_memory(name).removesuffix(".weight")])
        whole = (x_ND / np.sqrt((x_ND**2).mean(1, keepdims=True)))[:, kept]
        pruned = x_ND[:, kept] / np.sqrt((x_ND[:, kept] ** 2).mean(1, keepdims=True))
        assert scale == pytest.approx(float((whole * pruned).sum() / (pruned**2).sum()), rel=1e-5)


def test_one_block_at_a_time_gives_the_same_factors(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "teacher")
    plan, samples = make_plan(make_tiny_shape(), 14), make_samples(padded=True)
    whole = norm_scales(MemoryStack(load_model(folder), plan.source), samples, plan)
    assert norm_scales(LayerwiseStack(open_checkpoint(folder)), samples, plan) == pytest.approx(whole, rel=1e-6)


def test_a_plan_that_keeps_all_hidden_channels_needs_no_factor(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "teacher")
    stack = LayerwiseStack(open_checkpoint(folder))
    assert norm_scales(stack, make_samples(padded=False), make_plan(stack.shape, 22)) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scaled_plan_is_cut_alike_in_memory_and_on_disk(
    tmp_path: Path, token_ids: torch.Tensor, dtype: torch.dtype
) -> None:
    source = open_checkpoint(write_tiny_checkpoint(tmp_path / "teacher", dtype=dtype))
    plan = make_plan(source.shape, 14)
    scaled = replace(plan, scales=norm_scales(LayerwiseStack(source), make_samples(padded=False), plan))
    model = load_model(source.folder, dtype=dtype)
    in_memory = prune_model(model, scaled)
    on_disk = load_model(prune_checkpoint(source, scaled, tmp_path / "pruned").folder, dtype=dtype)
    plain = prune_model(model, plan)
    with torch.no_grad():
        logits = in_memory(token_ids).logits
        torch.testing.assert_close(on_disk(token_ids).logits, logits, rtol=0, atol=0)
        assert (plain(token_ids).logits - logits).abs().max() > 1e-3


def test_a_factor_for_an_unknown_tensor_is_refused() -> None:
    plan = make_plan(make_tiny_shape(), 14)
    with pytest.raises(ValueError, match="a scaled tensor must be one of the source's, got elsewhere"):
        replace(plan, scales={"elsewhere": 2.0})
