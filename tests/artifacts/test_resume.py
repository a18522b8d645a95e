"""Saved state is used for the inputs it was made from, and never otherwise."""

import logging
from pathlib import Path

import pytest
import torch

from minitron.artifacts.resume import SavedState


def test_records_and_tensors_come_back_for_the_same_inputs(tmp_path: Path) -> None:
    tensors = {"x": torch.arange(6).reshape(2, 3), "y": torch.tensor(1.5, dtype=torch.bfloat16)}
    state = SavedState(tmp_path / "state", {"sizes": (1, 2)})
    state.save_tensors("a", tensors)
    state.save_record("b", {"done": 3})
    again = SavedState(tmp_path / "state", {"sizes": [1, 2]})
    found = again.load_tensors("a")
    assert found is not None
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert again.load_record("b") == {"done": 3}
    assert again.load_tensors("b") is None
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["a.safetensors", "b.json"]


@pytest.mark.parametrize("damage", ["truncated", "other inputs"])
@pytest.mark.parametrize("name", ["a.safetensors", "b.json"])
def test_state_that_cannot_be_used_is_cleared_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, name: str
) -> None:
    state = SavedState(tmp_path, {"batch_size": 2})
    state.save_tensors("a", {"x": torch.ones(300)})
    state.save_record("b", {"done": 3})
    path = tmp_path / name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        state = SavedState(tmp_path, {"batch_size": 3})
    with caplog.at_level(logging.WARNING):
        assert (state.load_tensors("a") if name == "a.safetensors" else state.load_record("b")) is None
    assert "anew" in caplog.text
    assert ("batch_size was 2 and is 3" in caplog.text) == (damage == "other inputs")
    assert not path.exists()


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    state = SavedState(None, {})
    state.save_tensors("a", {"x": torch.ones(3)})
    state.save_record("b", {})
    assert state.load_tensors("a") is state.load_record("b") is None


def test_a_failed_save_keeps_the_state_of_before(tmp_path: Path) -> None:
    state = SavedState(tmp_path, {})
    state.save_record("b", {"done": 3})
    with pytest.raises(TypeError):
        state.save_record("b", {"done": object()})
    assert state.load_record("b") == {"done": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
