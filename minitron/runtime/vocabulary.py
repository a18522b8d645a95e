"""A model with some of its tokens alone, loaded or in files: what it computes is its softmax restricted to them."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.reading import Fp32, read_fp32
from minitron.models.axes import Indices
from minitron.runtime.stack import LayerwiseStack


@torch.no_grad()
def restrict_vocabulary(model: PreTrainedModel, kept: Indices) -> None:
    """Leaves a loaded model the embeddings and the rows of the head of some tokens, in place.

    Its ids are then positions in `kept`, and its logits the kept ones of before.

    Args:
        model: The model.
        kept: Ids that are kept, in their new order.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embeddings.weight
    embeddings.weight = _rows(embeddings.weight, kept)
    embeddings.num_embeddings, embeddings.padding_idx = len(kept), None
    head.weight = embeddings.weight if tied else _rows(head.weight, kept)
    head.out_features = len(kept)
    model.config.vocab_size = len(kept)


def restricted_stack(
    checkpoint: Checkpoint, kept: Indices, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LayerwiseStack:
    """The same of a checkpoint that is read block by block.

    Args:
        checkpoint: The model.
        kept: Ids that are kept, in their new order.
        device: Where to compute.
        dtype: What to compute in.
    """
    by_token = {checkpoint.shape.family.embeddings, checkpoint.shape.head_tensor}

    def read(name: str, first: int, count: int | None) -> Fp32:
        stored = checkpoint.tensors[name]
        if name not in by_token:
            return read_fp32(stored, first=first, count=count)
        rows = kept[first:] if count is None else kept[first : first + count]
        return np.concatenate([read_fp32(stored, first=int(row), count=1) for row in rows])

    cut = replace(checkpoint, shape=replace(checkpoint.shape, vocab_size=len(kept)))
    return LayerwiseStack(cut, device=device, dtype=dtype, read=read)


def _rows(weight_VD: torch.Tensor, kept: Indices) -> nn.Parameter:
    return nn.Parameter(weight_VD[torch.from_numpy(kept).to(weight_VD.device)], requires_grad=weight_VD.requires_grad)
