"""A model as a stack of blocks that can be run a few at a time: whole in memory, or layerwise from its files.

Both run transformers' own forward over some of the blocks, so that they give the numbers of the whole model.
"""

# B samples, T tokens, D hidden, N rows of the vocabulary, L blocks

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.names import gather_state
from minitron.checkpoints.places import block_places
from minitron.checkpoints.reading import Fp32, read_fp32
from minitron.errors import MinitronError
from minitron.models.shape import HybridShape
from minitron.runtime.backbone import Block, blocks_of, divided_for_logits, embed, embed_rows, output_head, run_blocks
from minitron.runtime.dtypes import held_dtype
from minitron.runtime.loading import empty_model

ReadRows = Callable[[str, int, int | None], Fp32]

# Rows of the head that are held at once: at a hidden size of 5120 they take 160 MiB in fp32.
HEAD_ROWS = 8192


class Stack(Protocol):
    """A model, block by block.

    Attributes:
        shape: Its shape.
        device: Where it computes.
        dtype: What it computes in.
        whole: Whether all blocks are in memory at once, so that any number of passes costs no reading.
    """

    shape: HybridShape
    device: torch.device
    dtype: torch.dtype
    whole: bool

    def embed(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """[B, T, D] residual stream before the first block."""

    def blocks(self, layers: Sequence[int]) -> Iterator[Block]:
        """The blocks of these layers in order; each may be used until the next one is asked for."""

    def run(self, blocks: Sequence[Block], hidden_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        """[B, T, D] residual stream after these blocks; the mask says which tokens are no padding."""

    def final_norm(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] what the head reads."""

    def head(self) -> Iterator[torch.Tensor]:
        """Successive rows [N, D] of `lm_head.weight`."""


class MemoryStack:
    """The blocks of a loaded model, which must be in evaluation mode."""

    whole = True

    def __init__(self, model: PreTrainedModel, shape: HybridShape) -> None:
        if model.training:
            raise MinitronError(
                "a model must be in evaluation mode for its activations to be collected: fused training kernels skip "
                "submodules"
            )
        self.shape = shape
        self.device = model.device
        self.dtype = model.dtype
        self._model = model

    def embed(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """[B, T, D] residual stream before the first block."""
        return embed(self._model, ids_BT)

    def blocks(self, layers: Sequence[int]) -> Iterator[Block]:
        """The blocks of these layers in order."""
        blocks = blocks_of(self._model)
        yield from ((layer, blocks[layer]) for layer in layers)

    def run(self, blocks: Sequence[Block], hidden_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        """[B, T, D] residual stream after these blocks."""
        return _run(self._model, self.shape, blocks, hidden_BTD, mask_BT)

    def final_norm(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] what the head reads."""
        norm = self._model.get_submodule(_module_of(self.shape, self.shape.family.final_norm))
        return divided_for_logits(self._model, norm(hidden_BTD))

    def head(self) -> Iterator[torch.Tensor]:
        """Successive rows [N, D] of `lm_head.weight`."""
        yield from torch.split(output_head(self._model).detach(), HEAD_ROWS)


class LayerwiseStack:
    """A checkpoint of which one block is in memory at a time, while the next one is being read.

    Memory: two blocks, eight rows of hidden states a token, and the rows of the embeddings or head that are in use.

    Args:
        checkpoint: The model; what is read of it is the configuration and, unless `read` is given, the tensors.
        device: Where to compute.
        dtype: What to compute in; what a loaded model keeps in fp32 stays so here.
        read: Gives rows `first` to `first + count` (all when None) of a tensor by its name on disk, in place of the
            checkpoint's files.
    """

    whole = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        read: ReadRows | None = None,
    ) -> None:
        self.shape = checkpoint.shape
        self.device = torch.device(device)
        self.dtype = dtype
        self._read = read or _stored_rows(checkpoint)
        self._model = empty_model(checkpoint, dtype)

    def embed(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """[B, T, D] residual stream before the first block; only the rows that are looked up are read."""
        name = self.shape.family.embeddings
        ids, places_BT = np.unique(ids_BT.cpu().numpy(), return_inverse=True)
        rows_ND = np.concatenate([self._read(name, int(row), 1) for row in ids])
        hidden_BTD = torch.from_numpy(rows_ND[places_BT.reshape(ids_BT.shape)])
        return embed_rows(self._model, hidden_BTD.to(self.device, self.dtype))

    def blocks(self, layers: Sequence[int]) -> Iterator[Block]:
        """The blocks of these layers in order, each read while the one before it is in use."""
        if not layers:
            return
        model_blocks = blocks_of(self._model)
        with ThreadPoolExecutor(max_workers=1) as reader:
            coming: Future[dict[str, torch.Tensor]] = reader.submit(self._read_block, layers[0])
            for position, layer in enumerate(layers):
                block = model_blocks[layer]
                block.load_state_dict(coming.result(), assign=True)
                if position + 1 < len(layers):
                    coming = reader.submit(self._read_block, layers[position + 1])
                block.to(self.device)
                try:
                    yield layer, block
                finally:
                    block.to("meta")

    def run(self, blocks: Sequence[Block], hidden_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        """[B, T, D] residual stream after these blocks."""
        return _run(self._model, self.shape, blocks, hidden_BTD, mask_BT)

    def final_norm(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] what the head reads."""
        name = self.shape.family.final_norm
        norm = self._model.get_submodule(_module_of(self.shape, name))
        weight_D = torch.from_numpy(self._read(name, 0, None)).to(self.device, self.dtype)
        norm.load_state_dict({"weight": weight_D}, assign=True)
        return divided_for_logits(self._model, norm(hidden_BTD))

    def head(self) -> Iterator[torch.Tensor]:
        """Successive rows [N, D] of `lm_head.weight`."""
        rows = self.shape.vocab_size
        for first in range(0, rows, HEAD_ROWS):
            rows_ND = self._read(self.shape.head_tensor, first, min(HEAD_ROWS, rows - first))
            yield torch.from_numpy(rows_ND).to(self.device, self.dtype)

    def _read_block(self, layer: int) -> dict[str, torch.Tensor]:
        family = self.shape.family
        prefix = family.block_prefix.format(layer=layer)
        places = block_places(family, self.shape.hybrid_override_pattern[layer], self.shape.sizes)
        tensors = ((name, torch.from_numpy(self._read(prefix + name, 0, None))) for name in places)
        state = gather_state(tensors, places)
        return {name: tensor.to(held_dtype(self._model, name, self.dtype)) for name, tensor in state.items()}


def _stored_rows(checkpoint: Checkpoint) -> ReadRows:
    def read(name: str, first: int, count: int | None) -> Fp32:
        return read_fp32(checkpoint.tensors[name], first=first, count=count)

    return read


def _run(
    model: PreTrainedModel,
    shape: HybridShape,
    blocks: Sequence[Block],
    hidden_BTD: torch.Tensor,
    mask_BT: torch.Tensor | None,
) -> torch.Tensor:
    norm_name = _module_of(shape, shape.family.final_norm).rpartition(".")[2]
    return run_blocks(model, blocks, hidden_BTD, mask_BT, norm_name=norm_name)


def _module_of(shape: HybridShape, weight_on_disk: str) -> str:
    return shape.family.name_in_memory(weight_on_disk).removesuffix(".weight")
