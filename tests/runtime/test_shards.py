"""Weights that two and three processes read in shards, and the files that they write, are those of one, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import write_weights
from minitron.errors import CheckpointError, MinitronError
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import empty_model, load_model
from minitron.runtime.saving import save_model
from minitron.runtime.shards import read_weights
from tests.runtime import shards_program
from tests.runtime.shards_program import CASES, CPU, change, differing, loaded_whole, write_case
from tests.support.folders import contents
from tests.support.models import make_dense_shape, make_tiny_shape, write_tiny_checkpoint
from tests.support.processes import run_ranks


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for case in CASES:
        write_case(root, case)
    return root


@pytest.fixture(scope="module", params=[2, 3])
def computed(request: pytest.FixtureRequest, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(f"shards-{request.param}")
    codes = run_ranks(shards_program.main, checkpoints, output, world_size=request.param, log=output)
    assert codes == [0] * request.param, (output / "rank-0.err").read_text()
    return output


def reports(output: Path, name: str) -> list[Any]:
    """What each process reported of a case."""
    return [json.loads(path.read_text()) for path in sorted(output.glob(f"{name} [0-9].json"))]


@pytest.mark.processes
@pytest.mark.parametrize("case", CASES)
def test_shards_are_those_of_a_model_that_is_loaded_whole(computed: Path, case: str) -> None:
    found = reports(computed, case)
    assert len(found) in (2, 3)
    assert found == [
        {
            "world_size": len(found),
            "not in shards": [],
            "differing": [],
            "wrong rows": [],
            "tied": case.startswith("tied"),
            "same logits": True,
        }
    ] * len(found)


@pytest.mark.processes
@pytest.mark.parametrize("case", CASES)
def test_files_that_shards_are_written_into_are_those_of_one_process(
    computed: Path, checkpoints: Path, tmp_path: Path, case: str
) -> None:
    source, (_, _, held) = open_checkpoint(checkpoints / case), CASES[case]
    model = loaded_whole(source.folder, torch_dtype(held))
    change(model)
    state, places = model.state_dict(), model_places(source.shape)
    planned = {name: (tensor.dtype, tensor.shape) for name, tensor in source.tensors.items()}
    write_weights(
        tmp_path,
        planned,
        lambda name: read_place(state, places[name]).to(torch_dtype(planned[name][0])),
        spell=source.name_to_write,
    )
    found = contents(computed / case)
    expected = {name: content for name, content in contents(source.folder).items() if "safetensors" not in name}
    config = found.pop("config.json"), expected.pop("config.json")
    assert json.loads(config[0]) == json.loads(config[1])
    assert found == expected | contents(tmp_path)


@pytest.mark.processes
def test_rows_of_another_process_are_seen(tmp_path: Path) -> None:
    shape = make_dense_shape("llama", vocab_size=272, intermediate_size=38)  # halves are of one shape
    root = write_tiny_checkpoint(tmp_path / "even", shape=shape)
    assert run_ranks(shards_program.main_planted, root, tmp_path, log=tmp_path) == [0, 0]
    for found in reports(tmp_path, "planted"):
        assert len(found["differing"]) == len(found["all"]) > 20


def test_a_whole_model_without_weights_is_given_those_that_transformers_loads(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "experts")
    model = empty_model(open_checkpoint(folder), torch.bfloat16)
    read_weights(model, open_checkpoint(folder), device=CPU)
    assert differing(model, load_model(folder, dtype=torch.bfloat16)) == []


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = empty_model(open_checkpoint(write_tiny_checkpoint(tmp_path / "one")))
    other = open_checkpoint(write_tiny_checkpoint(tmp_path / "other", shape=make_tiny_shape(hidden_size=26)))
    with pytest.raises(MinitronError, match=r"must be \(271, 26\) in the model, which holds \(271, 22\)"):
        read_weights(model, other, device=CPU)


def test_a_checkpoint_with_fewer_blocks_is_refused(tmp_path: Path) -> None:
    model = empty_model(open_checkpoint(write_tiny_checkpoint(tmp_path / "one")))
    shape = make_tiny_shape(hybrid_override_pattern="M-*MM-*")
    other = open_checkpoint(write_tiny_checkpoint(tmp_path / "other", shape=shape))
    with pytest.raises(MinitronError, match="must hold the whole model, it lacks model.layers.7"):
        read_weights(model, other, device=CPU)


def test_a_model_of_another_shape_is_not_written(tmp_path: Path) -> None:
    source = open_checkpoint(write_tiny_checkpoint(tmp_path / "one"))
    state = load_model(write_tiny_checkpoint(tmp_path / "other", shape=make_tiny_shape(hidden_size=26))).state_dict()
    with pytest.raises(CheckpointError, match=r"must be of shape \(271, 22\) to be written, the model has \(271, 26\)"):
        save_model(state, source, tmp_path / "saved")
