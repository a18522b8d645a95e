"""Nothing that is pickled runs: each file that is read when a training resumes is planted with code, and refused.

Code that ran would leave a file behind; planting proves itself by being run by pickle's own loader.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minitron.distill.shard_files import INDEX_FILE
from minitron.distill.sharding import STATE_SUBFOLDER, load_shards, load_weights, save_shards, save_weights
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.record import DistillRecord
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.errors import MinitronError
from tests.faults.fuzzing.outcome import message_fault
from tests.support.models import make_tiny_model, make_tiny_shape

SETTINGS = DistillSettings(batch_size=2, learning_rate=1e-3, warmup_steps=1, save_steps=0)
STEPS = 3


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def pickled(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def as_torch_does(value: object, path: Path) -> None:
    torch.save(value, path)


def train(folder: Path, *, steps: int) -> DistillRecord:
    sequences_NT = np.random.default_rng(0).integers(3, 271, (2 * STEPS, 7), dtype=np.int32)
    return distill(
        make_tiny_model(make_tiny_shape(), seed=1),
        OnlineTeacher(make_tiny_model(make_tiny_shape())),
        sequences_NT,
        SETTINGS,
        run=TrainingRun(state_folder=folder, seed=0, stop_after_tokens=steps * 2 * 7),
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("stopped")
    train(folder, steps=1)
    (state,) = folder.glob("checkpoint-*")
    return {path.name: path.read_bytes() for path in state.iterdir() if path.is_file()}


@pytest.fixture
def state(stopped: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoint-1"
    folder.mkdir(parents=True)
    for name, content in stopped.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("write", [pickled, as_torch_does])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_code_in_a_file_of_a_saved_state_is_refused_and_never_run(
    state: Path, tmp_path: Path, name: str, write: Callable[[object, Path], None]
) -> None:
    mark = tmp_path / "it ran"
    if name == "pytorch_model.bin":  # which is read where there is no model.safetensors
        (state / "model.safetensors").unlink()
    else:
        assert (state / name).is_file() or name == "scaler.pt"  # which is of fp16
    write({"state": Planted(mark)}, state / name)
    with pytest.raises(MinitronError, match="must be whole and hold tensors and plain values alone") as caught:
        train(state.parent, steps=STEPS)
    assert not mark.exists()
    assert message_fault(str(caught.value)) == ""


def test_files_that_nobody_needs_are_not_read(state: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    for name in ("training_args.bin", "optimizer.bin", "custom_checkpoint_0.pkl", "pytorch_model.bin"):
        pickled(Planted(mark), state / name)
    record = train(state.parent, steps=STEPS)
    assert not mark.exists()
    assert record.tokens == STEPS * 2 * 7
    assert len(record.curve) == STEPS  # the first of which is the state's


def test_what_is_planted_would_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Planted(mark)))
    assert mark.exists()


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[nn.Module, torch.optim.Optimizer, Path]:
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.125, betas=(0.5, 0.75))
    module(torch.ones(7, 3)).sum().backward()
    optimizer.step()
    save_shards(module, optimizer, tmp_path)
    return module, optimizer, tmp_path


def test_a_sharded_state_comes_back_as_it_was_saved(
    sharded: tuple[nn.Module, torch.optim.Optimizer, Path],
) -> None:
    module, optimizer, folder = sharded
    again = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    other = torch.optim.AdamW(again.parameters(), lr=9.0)
    load_shards(again, other, folder)
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert other.param_groups[0]["lr"] == 0.125
    assert other.param_groups[0]["betas"] == (0.5, 0.75)
    for state, expected in zip(other.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_code_in_the_index_of_a_sharded_state_is_refused_and_never_run(
    sharded: tuple[nn.Module, torch.optim.Optimizer, Path],
) -> None:
    module, optimizer, folder = sharded
    mark = folder / "it ran"
    pickled(Planted(mark), folder / STATE_SUBFOLDER / INDEX_FILE)
    for load in (lambda: load_shards(module, optimizer, folder), lambda: load_weights(module, folder)):
        with pytest.raises(MinitronError, match="which is no part of an index") as caught:
            load()
        assert message_fault(str(caught.value)) == ""
    assert not mark.exists()


def test_code_in_a_value_of_a_sharded_state_is_refused_and_never_run(
    sharded: tuple[nn.Module, torch.optim.Optimizer, Path],
) -> None:
    module, optimizer, folder = sharded
    mark = folder / "it ran"
    index = folder / STATE_SUBFOLDER / INDEX_FILE
    metadata = pickle.loads(index.read_bytes())
    planted = io.BytesIO()
    torch.save(Planted(mark), planted)
    (folder / STATE_SUBFOLDER / "planted.distcp").write_bytes(planted.getvalue())
    for key, place in metadata.storage_data.items():
        if key.fqn.endswith("param_groups.0.lr") or ".lr" in key.fqn:
            place.relative_path, place.offset, place.length = "planted.distcp", 0, len(planted.getvalue())
    pickled(metadata, index)
    with pytest.raises(MinitronError, match="must be whole and of this model"):
        load_shards(module, optimizer, folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../other.distcp", "/tmp/other.distcp", "a/b.distcp", ".metadata", 3])
def test_an_index_of_a_sharded_state_names_files_beside_it_alone(tmp_path: Path, name: Any) -> None:
    module = nn.Linear(3, 5)
    save_weights(module, tmp_path)
    index = tmp_path / STATE_SUBFOLDER / INDEX_FILE
    metadata = pickle.loads(index.read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = name
    pickled(metadata, index)
    with pytest.raises(MinitronError, match="must name files beside it"):
        load_weights(module, tmp_path)
