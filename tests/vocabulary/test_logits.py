"""For kept tokens the logits are the teacher's slice, bit for bit, in every family, whatever else is cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.errors import MinitronError
from minitron.models.axes import VOCABULARY, Indices
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.pipeline.vocabulary.cut import vocabulary_plan
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.prune.laws.tiny_shape import tiny_shape
from minitron.prune.plan import PrunePlan, load_plan, save_plan
from minitron.runtime.loading import load_model
from minitron.runtime.vocabulary import restrict_vocabulary
from tests.support.models import (
    make_dense_shape,
    make_moe_shape,
    make_tiny_model,
    make_tiny_shape,
    write_tiny_checkpoint,
)

SHAPES = {
    "nemotron_h": make_tiny_shape(),
    "experts": make_moe_shape(),
    "llama": make_dense_shape("llama"),
    "llama, tied": make_dense_shape("llama", tie_word_embeddings=1),
    "qwen3, tied": make_dense_shape("qwen3", tie_word_embeddings=1),
    "gemma3, tied": make_dense_shape(
        "gemma3_text", hybrid_override_pattern="SST", sliding_window=5, tie_word_embeddings=1
    ),
    "granite": replace(tiny_shape("granitemoehybrid", "HT", seed=0), vocab_size=271),
}


def some_ids(shape: HybridShape, size: int, seed: int = 0) -> Indices:
    """Ids in any order, the special ones first."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.arange(3), 3 + rng.permutation(shape.vocab_size - 3)[: size - 3]])


@torch.no_grad()
def logits(model: torch.nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(ids_BT, use_cache=False).logits
    return found


@pytest.mark.parametrize("size", [64, 128, 201])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_kept_tokens_are_the_slice_bit_for_bit(tmp_path: Path, name: str, size: int) -> None:
    shape = SHAPES[name]
    source = open_checkpoint(write_tiny_checkpoint(tmp_path / "teacher", shape=shape))
    kept = some_ids(shape, size)
    written = prune_checkpoint(source, vocabulary_plan(source, kept), tmp_path / "cut")
    assert written.shape.vocab_size == size
    assert source.params - written.params == (shape.vocab_size - size) * shape.hidden_size * (
        1 if shape.tie_word_embeddings else 2
    )
    whole, smaller = load_model(source.folder), load_model(written.folder)
    ids_BT = torch.from_numpy(np.random.default_rng(1).integers(0, size, (2, 23)))
    expected = logits(whole, torch.from_numpy(kept)[ids_BT])[..., torch.from_numpy(kept)]
    assert torch.equal(logits(smaller, ids_BT), expected)
    assert not torch.equal(logits(whole, ids_BT)[..., :size], expected)


@pytest.mark.parametrize("name", SHAPES)
def test_a_loaded_teacher_is_restricted_in_place_to_the_same(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    whole, restricted = make_tiny_model(shape), make_tiny_model(shape)
    kept = some_ids(shape, 64)
    restrict_vocabulary(restricted, kept)
    ids_BT = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (2, 23)))
    expected = logits(whole, torch.from_numpy(kept)[ids_BT])[..., torch.from_numpy(kept)]
    assert torch.equal(logits(restricted, ids_BT), expected)
    assert restricted.config.vocab_size == 64


def test_restricted_to_a_softmax_is_the_teachers_conditional_distribution() -> None:
    shape = SHAPES["llama"]
    whole, restricted, kept = make_tiny_model(shape), make_tiny_model(shape), some_ids(shape, 64)
    restrict_vocabulary(restricted, kept)
    ids_BT = torch.arange(20)[None]
    probabilities = torch.softmax(logits(whole, torch.from_numpy(kept)[ids_BT]).double(), dim=-1)[..., kept]
    conditional = probabilities / probabilities.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(torch.softmax(logits(restricted, ids_BT).double(), dim=-1), conditional)


def test_the_vocabulary_is_cut_together_with_other_axes(tmp_path: Path) -> None:
    """One plan of both gives what one after the other gives."""
    shape = SHAPES["nemotron_h"]
    model, kept = make_tiny_model(shape), some_ids(shape, 64)
    hidden = np.arange(0, 22, 2)
    layers = (0, 1, 2, 5)

    def plan(source: HybridShape, indices: dict[tuple[str, int | None], Indices]) -> PrunePlan:
        keep = Keep(layers=layers if len(source.hybrid_override_pattern) == 8 else (0, 1, 2, 3), indices=indices)
        return PrunePlan(source=source, target=keep.shape(source), keep=keep)

    both = plan(shape, {(VOCABULARY.name, None): kept, ("hidden_size", None): hidden})
    first = plan(shape, {("hidden_size", None): hidden})
    second = plan(first.target, {(VOCABULARY.name, None): kept})
    assert second.target == both.target
    save_plan(both, tmp_path / "plan")
    assert load_plan(tmp_path / "plan").target == both.target
    ids_BT = torch.arange(20)[None]
    one, other = prune_model(model, both), prune_model(prune_model(model, first), second)
    assert torch.equal(logits(one, ids_BT), logits(other, ids_BT))


@pytest.mark.parametrize("kept", [np.array([0, 0, 1]), np.array([0, 271]), np.array([-1, 2])])
def test_a_plan_of_ids_that_are_not_there_is_refused(kept: Indices) -> None:
    shape = SHAPES["llama"]
    keep = Keep(layers=(0, 1, 2), indices={(VOCABULARY.name, None): kept})
    with pytest.raises(MinitronError, match="distinct and below 271"):
        PrunePlan(source=shape, target=keep.shape(shape), keep=keep)
