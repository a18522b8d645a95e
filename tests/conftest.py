"""A tiny hybrid whose dims are all distinct and whose SSM matters, as a shape, a model and a checkpoint folder."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch

# Read as Triton is imported, which transformers does: without a GPU its interpreter runs kernels, on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from transformers import PreTrainedModel

from minitron.models.shape import HybridShape
from tests.support.models import make_tiny_model, make_tiny_shape, write_tiny_checkpoint
from tests.support.recipes import write_tiny_recipe

# Small products on two cores: one thread is as fast and does not fight with other processes.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_shape() -> HybridShape:
    return make_tiny_shape()


@pytest.fixture
def tiny_model(tiny_shape: HybridShape) -> PreTrainedModel:
    return make_tiny_model(tiny_shape)


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "teacher")


@pytest.fixture
def token_ids() -> torch.Tensor:
    return torch.randint(3, 271, (2, 29), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    sizes = {"num_hidden_layers": [8, 7], "hidden_size": [22, 18, 14], "mamba_num_heads": [8, 6, 4]}
    return write_tiny_recipe(tmp_path, make_tiny_shape(), sizes)
