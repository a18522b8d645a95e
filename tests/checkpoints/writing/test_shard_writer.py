"""Shards hold what was planned, as safetensors reads it, and appear whole."""

import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE, read_headers
from minitron.checkpoints.weights import write_state, write_weights

STATE = {
    "a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "b": torch.tensor(2.5),
    "c": torch.empty(0, 4),
    "d": torch.arange(10).reshape(5, 2).t(),  # not contiguous
}


def test_tensors_come_back_in_a_readable_file(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE_FILE]
    found = load_file(tmp_path / SINGLE_FILE)
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / SINGLE_FILE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert stat.S_IMODE((tmp_path / SINGLE_FILE).stat().st_mode) == 0o644


def test_several_shards_get_an_index(tmp_path: Path) -> None:
    write_state(tmp_path, STATE, shard_bytes=20)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"] == {"total_parameters": 17, "total_size": 12 + 4 + 80}
    assert index["weight_map"].keys() == STATE.keys()
    assert read_headers(tmp_path).keys() == STATE.keys()
    assert not list(tmp_path.glob("*.partial"))


def test_a_tensor_that_is_not_as_planned_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a must be \('F32', \(2, 3\)\) to be written, it is \('BF16', \(2, 3\)\)"):
        write_weights(tmp_path, {"a": ("F32", (2, 3))}, STATE.__getitem__)
    assert not (tmp_path / SINGLE_FILE).exists()
