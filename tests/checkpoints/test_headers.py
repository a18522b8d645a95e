"""Headers and indexes that lie, each refused in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE, StoredTensor, read_header, read_headers
from tests.support.models import write_tiny_checkpoint

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}


def write(folder: Path, header: bytes | dict[str, Any], *, data: int = 16, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / SINGLE_FILE
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_honest_header_is_read_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path, {"__metadata__": {"format": "pt"}, "b": B, "a": A})
    start = path.stat().st_size - 16
    assert read_header(path) == {
        "a": StoredTensor(file=path, dtype="F32", shape=(2,), start=start),
        "b": StoredTensor(file=path, dtype="F32", shape=(2,), start=start + 8),
    }


def test_empty_and_scalar_tensors_are_read(tmp_path: Path) -> None:
    save_file({"empty": torch.empty(0, 3), "scalar": torch.tensor(1.0)}, tmp_path / SINGLE_FILE)
    stored = read_header(tmp_path / SINGLE_FILE)
    assert {name: tensor.nbytes for name, tensor in stored.items()} == {"empty": 0, "scalar": 4}


LIES: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "negative offset": ({"a": A | {"data_offsets": [-8, 0]}}, "must be two ascending whole numbers"),
    "descending offsets": ({"a": A | {"data_offsets": [8, 0]}}, "must be two ascending whole numbers"),
    "three offsets": ({"a": A | {"data_offsets": [0, 8, 16]}}, "must be two ascending whole numbers"),
    "offsets in text": ({"a": A | {"data_offsets": ["0", "8"]}}, "must be two ascending whole numbers"),
    "fractional offset": ({"a": A | {"data_offsets": [0, 8.0]}}, "must be two ascending whole numbers"),
    "offsets as object": ({"a": A | {"data_offsets": {"0": 8}}}, "must be two ascending whole numbers"),
    "overlap": ({"a": A, "b": B | {"data_offsets": [4, 12]}}, "they overlap at 'b'"),
    "same bytes twice": ({"a": A, "b": A}, "they overlap at 'b'"),
    "gap": ({"a": A, "b": B | {"data_offsets": [12, 20]}}, "they leave a gap at 'b'"),
    "gap at the front": ({"b": B}, "they leave a gap at 'b'"),
    "other size": ({"a": A | {"shape": [3]}, "b": B}, "the bytes of its shape"),
    "negative dim": ({"a": A | {"shape": [-1, -2]}}, "must be a list of whole numbers from 0 on"),
    "fractional dim": ({"a": A | {"shape": [2.0]}}, "must be a list of whole numbers from 0 on"),
    "true as a dim": ({"a": A | {"shape": [True, 2]}}, "must be a list of whole numbers from 0 on"),
    "shape as number": ({"a": A | {"shape": 2}}, "must be a list of whole numbers from 0 on"),
    "unknown dtype": ({"a": A | {"dtype": "F31"}}, "must be one of F64"),
    "dtype as list": ({"a": A | {"dtype": ["F32"]}}, "must be one of F64"),
    "missing part": ({"a": {"dtype": "F32"}}, "must have dtype, shape and data_offsets"),
    "entry as list": ({"a": [1, 2]}, "must have dtype, shape and data_offsets"),
    "list": (b"[]", "is a JSON list, not an object"),
    "not JSON": (b"{'a': 1}", "is not JSON"),
    "deep": (b"[" * 200_000, "is not JSON"),
    "digits": (b'{"a": ' + b"9" * 5_000 + b"}", "is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "is not UTF-8"),
    "UTF-16": (json.dumps({"a": A}).encode("utf-16"), "is not UTF-8"),
    "key twice": (b'{"a": %b, "a": %b}' % (json.dumps(A).encode(), json.dumps(B).encode()), "the key 'a' twice"),
    "part twice": (b'{"a": {"dtype": "F32", "dtype": "F16"}}', "the key 'dtype' twice"),
    "metadata as list": ({"__metadata__": [], "a": A, "b": B}, "must hold text alone"),
    "metadata of numbers": ({"__metadata__": {"n": 1}, "a": A, "b": B}, "must hold text alone"),
    "too little data": ({"a": A, "b": B, "c": A | {"data_offsets": [16, 24]}}, "is truncated"),
    "too much data": ({"a": A}, "is too long"),
}


@pytest.mark.parametrize(("header", "fault"), LIES.values(), ids=LIES)
def test_a_lying_header_is_refused_in_one_line(tmp_path: Path, header: bytes | dict[str, Any], fault: str) -> None:
    assert fault in refusal(write(tmp_path, header))


@pytest.mark.parametrize("lie", [name for name in LIES if name not in ("fractional offset", "fractional dim")])
def test_what_is_refused_is_refused_by_the_format_s_own_reader(tmp_path: Path, lie: str) -> None:
    path = write(tmp_path, LIES[lie][0])
    with pytest.raises((SafetensorError, OSError)), safe_open(path, framework="pt") as file:
        file.keys()


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_an_absurd_header_length_is_refused_before_it_is_read(tmp_path: Path, length: int) -> None:
    assert "must have at most 100,000,000 bytes" in refusal(write(tmp_path, {"a": A}, length=length))


def test_a_header_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    assert "is truncated: its header alone needs" in refusal(write(tmp_path, {"a": A}, length=5_000))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "sharded", shard_bytes=20_000)


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    change(index["weight_map"])
    (folder / INDEX_FILE).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "file",
    ["../out.safetensors", "/etc/out.safetensors", "", ".", "..", "a/b.safetensors", "a\\b.safetensors", "config.json",
     "a\0b.safetensors", "x" * 300 + ".safetensors", 5, None, ["model.safetensors"]],
)  # fmt: skip
def test_an_index_names_plain_files_of_its_folder(sharded: Path, file: Any) -> None:
    edit_index(sharded, lambda names: names.__setitem__(next(iter(names)), file))
    with pytest.raises(ValueError, match="must name files in its own folder"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"nonsense", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"[]", "is a JSON list, not an object"),
        (b"{}", "must be a JSON object with a weight_map"),
        (b'{"weight_map": []}', "must be a JSON object with a weight_map"),
        (b'{"weight_map": {}}', "must be a JSON object with a weight_map"),
        (b'{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "the key 'a' twice"),
    ],
)
def test_an_index_that_is_none_is_refused(sharded: Path, text: bytes, fault: str) -> None:
    (sharded / INDEX_FILE).write_bytes(text)
    with pytest.raises(ValueError, match=fault) as caught:
        open_checkpoint(sharded)
    assert "\n" not in str(caught.value)


def test_an_index_that_names_another_shard_than_the_tensor_s_is_refused(sharded: Path) -> None:
    def swap(names: dict[str, str]) -> None:
        first, *_, last = names
        names[first], names[last] = names[last], names[first]

    edit_index(sharded, swap)
    with pytest.raises(ValueError, match="must name the shard that holds"):
        open_checkpoint(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=f"must lie in one shard .* lies in {first.name} and {second.name}"):
        open_checkpoint(sharded)


def test_an_index_without_a_tensor_of_its_shards_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda names: names.pop(list(names)[-1]))
    with pytest.raises(ValueError, match="must list the same tensors"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("shard_bytes", [2**30, 20_000])
def test_links_to_wherever_their_owner_put_the_files_are_read(tmp_path: Path, shard_bytes: int) -> None:
    real, links = write_tiny_checkpoint(tmp_path / "other volume", shard_bytes=shard_bytes), tmp_path / "links"
    links.mkdir()
    for path in real.iterdir():
        (links / path.name).symlink_to(path)
    found, expected = open_checkpoint(links), open_checkpoint(real)
    assert found.shape == expected.shape
    assert {name: (one.dtype, one.shape, one.start) for name, one in found.tensors.items()} == {
        name: (one.dtype, one.shape, one.start) for name, one in expected.tensors.items()
    }


def test_a_hub_s_cache_whose_blobs_lie_on_another_volume_is_read(tmp_path: Path) -> None:
    snapshot = write_tiny_checkpoint(tmp_path / "models--a--b" / "snapshots" / "0123")
    expected = read_headers(snapshot)
    volume = tmp_path / "other volume"
    volume.mkdir()
    (tmp_path / "models--a--b" / "blobs").symlink_to(volume)
    (snapshot / SINGLE_FILE).rename(volume / "abc")
    (snapshot / SINGLE_FILE).symlink_to(Path("../../blobs/abc"))
    assert read_headers(snapshot) == expected


def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "links", shard_bytes=20_000)
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.unlink()
    shard.symlink_to(tmp_path / "unmounted" / "blob")
    with pytest.raises(ValueError, match=f"checkpoint file not found: .*{shard.name}"):
        open_checkpoint(folder)


def test_an_index_beside_the_single_file_that_it_names_is_read_past(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = read_headers(tiny_checkpoint)
    weight_map = dict.fromkeys(expected, SINGLE_FILE)
    (tiny_checkpoint / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    assert read_headers(tiny_checkpoint) == expected
    assert caplog.messages == []


def test_the_single_file_goes_before_an_index_of_other_files_as_in_transformers(
    sharded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_tiny_checkpoint(tmp_path / "whole")
    (sharded / SINGLE_FILE).write_bytes((whole / SINGLE_FILE).read_bytes())
    assert {stored.file for stored in read_headers(sharded).values()} == {sharded / SINGLE_FILE}
    (message,) = caplog.messages
    assert "model.safetensors is read, as transformers does, and not model-00001-of-" in message


def test_a_link_inside_the_folder_and_the_hub_s_cache_are_read(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "models--a--b" / "snapshots" / "0123")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    tensors = read_headers(folder)
    (folder / SINGLE_FILE).rename(blobs / "abc")
    (folder / SINGLE_FILE).symlink_to(os.path.relpath(blobs / "abc", folder))
    assert read_headers(folder) == tensors
    (folder / SINGLE_FILE).unlink()
    (blobs / "abc").rename(folder / "real.safetensors")
    (folder / SINGLE_FILE).symlink_to("real.safetensors")
    assert read_headers(folder) == tensors
