"""A loaded model with some of its tokens alone: what it computes is its softmax restricted to them."""

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.models.axes import Indices


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


def _rows(weight_VD: torch.Tensor, kept: Indices) -> nn.Parameter:
    return nn.Parameter(weight_VD[torch.from_numpy(kept).to(weight_VD.device)], requires_grad=weight_VD.requires_grad)
