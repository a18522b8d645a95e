"""Names that other tools write: read, loaded, cut and merged like the published ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE, read_headers
from minitron.checkpoints.merging.merge import merge_checkpoints
from minitron.checkpoints.weights import open_weights
from minitron.errors import CheckpointError
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import load_model
from minitron.runtime.saving import save_model
from tests.support.models import (
    make_dense_shape,
    make_moe_shape,
    make_tiny_model,
    make_tiny_shape,
    write_tiny_checkpoint,
)

Tensors = dict[str, torch.Tensor]
HYBRID = make_tiny_shape()


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    tensors = load_file(folder / SINGLE_FILE)
    save_file(change(tensors), folder / SINGLE_FILE, metadata={"format": "pt"})
    return folder


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def wrapped(tensors: Tensors) -> Tensors:
    return {name.replace(".mixer.", "._fsdp_wrapped_module.mixer."): tensor for name, tensor in tensors.items()}


def singular(tensors: Tensors) -> Tensors:
    return {name.replace("backbone.embeddings.", "backbone.embedding."): tensor for name, tensor in tensors.items()}


def in_memory(shape: HybridShape) -> Callable[[Tensors], Tensors]:
    return lambda _: {name: tensor.contiguous() for name, tensor in make_tiny_model(shape).state_dict().items()}


# Name -> (shape, what the files are made to hold, whether what is made from it has the same names).
CASES: dict[str, tuple[HybridShape, Callable[[Tensors], Tensors], bool]] = {
    "a state dict saved by hand": (HYBRID, in_memory(HYBRID), True),
    "experts in stacks": (make_moe_shape(), in_memory(make_moe_shape()), False),
    "an embedding in the singular": (HYBRID, singular, False),
    "DDP": (HYBRID, prefixed("module."), False),
    "torch.compile": (make_dense_shape("llama"), prefixed("_orig_mod."), False),
    "FSDP of blocks": (HYBRID, wrapped, False),
    "DDP of a state dict": (HYBRID, lambda tensors: prefixed("module.")(in_memory(HYBRID)(tensors)), False),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, bool]:
    """A checkpoint in published names, the same in others, and whether these are kept."""
    shape, change, kept = CASES[request.param]
    published = write_tiny_checkpoint(tmp_path / "published", shape=shape)
    return published, rewrite(write_tiny_checkpoint(tmp_path / "other", shape=shape), change), kept


def names(folder: Path) -> set[str]:
    return set(read_headers(folder))


def test_tensors_are_read_by_their_published_names(case: tuple[Path, Path, bool]) -> None:
    published, other, _ = case
    first, second = open_checkpoint(published), open_checkpoint(other)
    assert (first.shape, first.params) == (second.shape, second.params)
    assert first.tensors.keys() == second.tensors.keys()
    with open_weights(first) as expected, open_weights(second) as found:
        for name in first.tensors:
            assert torch.equal(found(name), expected(name))


def test_the_loaded_model_computes_the_same(case: tuple[Path, Path, bool]) -> None:
    published, other, _ = case
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(load_model(other)(ids).logits, load_model(published)(ids).logits)


def test_what_is_cut_merged_or_saved_has_the_names_that_readers_of_the_source_know(
    case: tuple[Path, Path, bool], tmp_path: Path
) -> None:
    published, other, kept = case
    source, plain = open_checkpoint(other), open_checkpoint(published)
    layers = tuple(range(1, source.shape.num_hidden_layers))
    keep = Keep(layers=layers, indices={})
    plan = PrunePlan(source=source.shape, target=source.shape.resized(layers=layers), keep=keep)
    for size in (2**30, 20_000):
        made = merge_checkpoints([source, plain], [0.5, 0.5], tmp_path / f"merged{size}", shard_bytes=size)
        assert names(made.folder) == names(other if kept else published)
        cuts = [
            prune_checkpoint(one, plan, tmp_path / f"cut{at}-{size}", OutputFormat(shard_bytes=size))
            for at, one in enumerate((source, plain))
        ]
        spelled = {cuts[0].name_to_write(name) for name in cuts[1].tensors}
        assert names(cuts[0].folder) == (spelled if kept else names(cuts[1].folder))
        with open_weights(cuts[0]) as found, open_weights(cuts[1]) as expected:
            assert all(torch.equal(found(name), expected(name)) for name in cuts[1].tensors)
    saved = save_model(load_model(other).state_dict(), source, tmp_path / "saved")
    assert names(saved.folder) == names(other if kept else published)
    index = tmp_path / "merged20000" / INDEX_FILE
    assert set(json.loads(index.read_text())["weight_map"]) == names(made.folder)


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    def both(tensors: Tensors) -> Tensors:
        kept = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
        return kept | {"backbone.embedding.weight": tensors["backbone.embeddings.weight"].clone()}

    folder = rewrite(write_tiny_checkpoint(tmp_path / "both"), both)
    with pytest.raises(CheckpointError, match="stored once, .*embeddings?.weight and .*embeddings?.weight are one"):
        open_checkpoint(folder)


def test_a_name_that_is_not_known_is_refused_as_it_stands(tmp_path: Path) -> None:
    folder = rewrite(write_tiny_checkpoint(tmp_path / "odd"), prefixed("student."))
    with pytest.raises(CheckpointError, match="lacks backbone.embeddings.weight and"):
        open_checkpoint(folder)
