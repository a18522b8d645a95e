"""Checkpoints to merge, and their tensors."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from minitron.checkpoints.weights import write_state

Tensors = dict[str, torch.Tensor]
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def read(folder: Path) -> Tensors:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def write_variant(
    source: Path, folder: Path, *, seed: int, dtype: torch.dtype | None = None, shard: int = 2**30
) -> Path:
    """A checkpoint of other weights beside a first one, as training would leave it: some stay as they are."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    generator = torch.Generator().manual_seed(seed)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=generator) * (torch.rand(tensor.shape, generator=generator) > 0.1)
        return (tensor + noise * 10 ** torch.randn(tensor.shape, generator=generator)).to(dtype or tensor.dtype)

    tensors = {name: moved(tensor) for name, tensor in sorted(read(source).items())}
    write_state(folder, tensors, shard_bytes=shard)
    return folder


def assert_same_bits(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        words = WORDS[tensor.element_size()]
        assert torch.equal(found[name].view(words), tensor.view(words)), name
