"""Greedy depth: the blocks that an exhaustive step-by-step search removes, under quotas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.calibrate import calibrate
from minitron.importance.depth.distance import head_factor
from minitron.importance.selection import top_blocks
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.models.quotas import BlockQuotas
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.support import score_oracle as oracle
from tests.support.models import make_tiny_model, make_tiny_shape
from tests.support.samples import make_samples

PATTERN = make_tiny_shape().hybrid_override_pattern  # M-*MM-*-
NO_WIDTHS = WidthSettings.uniform(None)


def by_logits(**depth: Any) -> CalibrationSettings:
    return CalibrationSettings(width=NO_WIDTHS, depth=DepthSettings(scorer="logit_mse", **depth))


@pytest.mark.parametrize("way", ["memory", "layerwise"])
@pytest.mark.parametrize("distance", ["logit_mse", "logit_kld"])
@pytest.mark.parametrize("quotas", [BlockQuotas(), BlockQuotas(exactly={"*": 1}, protected=frozenset({0, 7}))])
def test_greedy_removal_is_the_exhaustive_one(
    tiny_checkpoint: Path, way: str, distance: Any, quotas: BlockQuotas
) -> None:
    model, checkpoint = load_model(tiny_checkpoint), open_checkpoint(tiny_checkpoint)
    stack = MemoryStack(model, checkpoint.shape) if way == "memory" else LayerwiseStack(checkpoint)
    samples = make_samples(padded=False)
    depth = DepthSettings(
        scorer=distance,
        remove=3,
        keep_attention=quotas.exactly.get("*"),
        protected=tuple(quotas.protected),
        trials_at_once=3,
        batches_at_once=2,
    )
    scores = calibrate(stack, samples, CalibrationSettings(width=NO_WIDTHS, depth=depth, batch_size=2))

    bare = [torch.from_numpy(row).long() for row in samples.token_ids]
    original = oracle.logits_without(model, bare, set())
    gone: list[int] = []
    for step in range(3):
        distances = {
            layer: oracle.distance(distance, original, oracle.logits_without(model, bare, {*gone, layer}))
            for layer in range(8)
            if layer not in gone
        }
        attention_left = sum(PATTERN[layer] == "*" for layer in distances)
        surplus = attention_left - 1
        allowed = [
            layer
            for layer in distances
            if not quotas.exactly
            or (layer not in (0, 7) and (surplus > 0 if PATTERN[layer] == "*" else 3 - step > surplus))
        ]
        gone.append(min(allowed, key=distances.__getitem__))
    assert list(scores.removed) == gone
    assert scores.depth[gone].tolist() == [-3, -2, -1]
    for layer, value in distances.items():
        if layer not in gone:
            np.testing.assert_allclose(scores.depth[layer], value, rtol=2e-5)


def test_the_first_removals_do_not_depend_on_how_many_follow(tiny_checkpoint: Path) -> None:
    stack = MemoryStack(load_model(tiny_checkpoint), make_tiny_shape())
    found = [calibrate(stack, make_samples(padded=False), by_logits(remove=n)).removed for n in (2, 4)]
    assert found[1][:2] == found[0]


def test_removals_are_what_selection_by_score_removes(tiny_checkpoint: Path) -> None:
    stack = MemoryStack(load_model(tiny_checkpoint), make_tiny_shape())
    quotas = BlockQuotas(exactly={"*": 1})
    scores = calibrate(stack, make_samples(padded=False), by_logits(remove=4, keep_attention=1))
    kept = top_blocks(scores.depth, PATTERN, 4, quotas=quotas)
    assert set(kept) == set(range(8)) - set(scores.removed)
    assert sum(PATTERN[layer] == "*" for layer in kept) == 1


def test_a_planted_dead_block_goes_first() -> None:
    shape = make_tiny_shape()
    model = make_tiny_model(shape)
    blocks: Any = model.base_model
    with torch.no_grad():
        blocks.layers[3].mixer.out_proj.weight.mul_(1e-4)
    settings = by_logits(remove=1)
    assert calibrate(MemoryStack(model, shape), make_samples(padded=False), settings).removed == (3,)


@pytest.mark.parametrize(
    ("quotas", "remove", "fault"),
    [
        (BlockQuotas(exactly={"*": 3}), 1, "cannot be kept with exactly"),
        (BlockQuotas(exactly={"*": 0}), 1, "cannot be kept with exactly"),
        (BlockQuotas(protected=frozenset(range(8))), 1, "blocks must stay under the quotas"),
        (BlockQuotas(at_least={"M": 3, "-": 3, "*": 2}), 1, "blocks must stay under the quotas"),
    ],
)
def test_quotas_that_cannot_be_met_are_refused(quotas: BlockQuotas, remove: int, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        quotas.check(PATTERN, 8 - remove)


@given(
    depth=st.permutations(range(8)),
    kept=st.integers(2, 7),
    attention=st.integers(0, 2),
)
def test_exact_quotas_are_met_whatever_the_scores(depth: list[int], kept: int, attention: int) -> None:
    quotas = BlockQuotas(exactly={"*": attention})
    others = kept - attention
    if not 0 <= others <= 6:
        with pytest.raises(ValueError, match="cannot be kept with exactly"):
            top_blocks(np.array(depth, dtype=float), PATTERN, kept, quotas=quotas)
        return
    layers = top_blocks(np.array(depth, dtype=float), PATTERN, kept, quotas=quotas)
    assert len(layers) == kept
    assert sum(PATTERN[layer] == "*" for layer in layers) == attention
    by_kind = {True: [], False: []}  # type: ignore[var-annotated]
    for layer in sorted(range(8), key=lambda layer: -depth[layer]):
        by_kind[PATTERN[layer] == "*"].append(layer)
    assert set(layers) == {*by_kind[True][:attention], *by_kind[False][:others]}


@pytest.mark.parametrize("vocab_size", [271, 24, 15])
def test_the_head_factor_gives_the_norms_of_the_logits(vocab_size: int) -> None:
    shape = make_tiny_shape(vocab_size=vocab_size)
    model = make_tiny_model(shape)
    factor_DD, vocab = head_factor(MemoryStack(model, shape))
    x_ND = torch.randn(7, shape.hidden_size, generator=torch.Generator().manual_seed(0))
    head: Any = model.get_output_embeddings()
    expected_N = (x_ND.double() @ head.weight.detach().double().T).norm(dim=1)
    torch.testing.assert_close((x_ND @ factor_DD.T).norm(dim=1).double(), expected_N, rtol=1e-5, atol=1e-6)
    assert vocab == vocab_size
