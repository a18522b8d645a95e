"""Folders without safetensors: the line that converts them is given, and does."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE, read_headers
from minitron.errors import CheckpointError
from tests.support.models import make_dense_shape, write_tiny_checkpoint


@pytest.mark.parametrize("files", [1, 3])
def test_the_line_for_a_folder_of_pickles_converts_it_tied_and_strided_tensors_included(
    tmp_path: Path, files: int
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "it's pickled", shape=make_dense_shape("llama", tie_word_embeddings=1))
    expected, state = read_headers(folder), load_file(folder / SINGLE_FILE)
    (folder / SINGLE_FILE).unlink()
    pickled = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    pickled["lm_head.weight"] = pickled["model.embed_tokens.weight"]
    names = sorted(pickled)
    for part in range(files):
        name = f"pytorch_model-{part}.bin" if files > 1 else "pytorch_model.bin"
        torch.save({key: pickled[key] for key in names[part::files]}, folder / name)
    torch.save({"learning_rate": 0.1}, folder / "training_args.bin")
    with pytest.raises(CheckpointError, match="must hold model.safetensors .* is converted by: python -c") as caught:
        open_checkpoint(folder)
    line = str(caught.value).partition("is converted by: ")[2]
    assert "\n" not in line
    subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True)
    found = open_checkpoint(folder)
    assert {name: stored.shape for name, stored in found.tensors.items()} == {
        name: stored.shape for name, stored in expected.items()
    }
    converted = load_file(folder / SINGLE_FILE)
    for name, tensor in state.items():
        assert torch.equal(converted[name], tensor)


def test_weights_of_another_form_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="has neither; model-q4.gguf is of a form that is not read"):
        read_headers(tmp_path)
