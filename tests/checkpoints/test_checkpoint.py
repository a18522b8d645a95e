import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE
from minitron.checkpoints.weights import open_weights
from minitron.models.shape import HybridShape
from minitron.runtime.loading import load_model
from tests.support.models import make_dense_shape, write_tiny_checkpoint


def test_an_opened_checkpoint_counts_what_its_shape_plans(tiny_checkpoint: Path, tiny_shape: HybridShape) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert checkpoint.shape == tiny_shape
    assert checkpoint.params == tiny_shape.params
    assert checkpoint.weights_bytes == 4 * tiny_shape.params


def test_shards_hold_the_same_tensors_as_one_file(tmp_path: Path, tiny_checkpoint: Path) -> None:
    sharded = open_checkpoint(write_tiny_checkpoint(tmp_path / "sharded", shard_bytes=20_000))
    single = open_checkpoint(tiny_checkpoint)
    assert len({tensor.file for tensor in sharded.tensors.values()}) > 2
    with open_weights(single) as read_single, open_weights(sharded) as read_sharded:
        for name in single.tensors:
            torch.testing.assert_close(read_sharded(name), read_single(name), rtol=0, atol=0)


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint folder not found"):
        open_checkpoint(tmp_path / "nowhere")


def test_missing_weights_are_one_clear_error(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / SINGLE_FILE).unlink()
    with pytest.raises(ValueError, match="must hold model.safetensors or model.safetensors.index.json"):
        open_checkpoint(tiny_checkpoint)


@pytest.mark.parametrize("kept", [3, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused_wherever_it_ends(tiny_checkpoint: Path, kept: float) -> None:
    path = tiny_checkpoint / SINGLE_FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(ValueError, match="truncated"):
        open_checkpoint(tiny_checkpoint)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "sharded", shard_bytes=20_000)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"checkpoint file not found: .*{shard.name}"):
        open_checkpoint(folder)


def test_an_index_that_points_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "sharded", shard_bytes=20_000)
    index = json.loads((folder / INDEX_FILE).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../elsewhere.safetensors"
    (folder / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must name files in its own folder"):
        open_checkpoint(folder)


def test_a_config_whose_tensors_disagree_is_refused(tiny_checkpoint: Path) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tiny_checkpoint / "config.json").write_text(json.dumps(config | {"intermediate_size": 35}))
    with pytest.raises(ValueError, match=r"up_proj.weight must have the shape \(35, 22\)|down_proj.weight must have"):
        open_checkpoint(tiny_checkpoint)


def test_the_hash_follows_the_contents(tiny_checkpoint: Path) -> None:
    before = checkpoint_hashes(tiny_checkpoint)
    assert checkpoint_hashes(tiny_checkpoint) == before
    with (tiny_checkpoint / SINGLE_FILE).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert checkpoint_hashes(tiny_checkpoint) != before


def test_a_tied_head_that_is_stored_too_must_be_the_embeddings_again_and_is_left_out(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "tied", shape=make_dense_shape("qwen3", tie_word_embeddings=1))
    tensors = load_file(folder / SINGLE_FILE)
    expected = open_checkpoint(folder)
    table = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": table.clone()}, folder / SINGLE_FILE, metadata={"format": "pt"})
    opened = open_checkpoint(folder)
    assert set(opened.tensors) == set(expected.tensors)
    assert opened.params == opened.shape.params
    head: Any = load_model(folder).get_output_embeddings()
    assert torch.equal(head.weight, table)
    save_file(tensors | {"lm_head.weight": table + 1}, folder / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match="tie_word_embeddings in config.json must be false where lm_head.weight differs"
    ):
        open_checkpoint(folder)


def test_what_follows_from_the_configuration_is_left_out(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "llama", shape=make_dense_shape("llama"))
    tensors = load_file(folder / SINGLE_FILE)
    save_file(
        tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)},
        folder / SINGLE_FILE,
        metadata={"format": "pt"},
    )
    assert set(open_checkpoint(folder).tensors) == set(tensors)
