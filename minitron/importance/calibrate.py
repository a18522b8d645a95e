"""One calibration pass: token blocks through the model in evaluation mode, every statistic at once."""

# N blocks, T tokens, D hidden, H mamba heads, P head dim

import logging
import time
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from minitron.hybrid.blocks import TokenBlocks
from minitron.hybrid.progress import track
from minitron.hybrid.shape import HybridShape
from minitron.importance.depth import BlockInfluence
from minitron.importance.scores import Scores
from minitron.importance.width import WidthStatistics

logger = logging.getLogger(__name__)


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    shape: HybridShape,
    blocks_NT: TokenBlocks,
    *,
    batch_size: int = 8,
    pad_token_id: int | None = None,
) -> Scores:
    """Width and depth scores of a model over calibration blocks, each block one sample.

    Args:
        model: The teacher, in evaluation mode.
        shape: Its shape.
        blocks_NT: Token ids. Rows may be padded when `pad_token_id` is given; padded tokens count nowhere.
        batch_size: Samples in one forward pass; it changes speed and memory, not scores.
        pad_token_id: The id of padding, or None for packed blocks.
    """
    started = time.monotonic()
    width, depth = WidthStatistics(shape), BlockInfluence(shape.num_hidden_layers)
    backbone: Any = model.base_model
    starts = range(0, len(blocks_NT), batch_size)
    with width.listening(backbone.layers), depth.listening(backbone.layers):
        for start in track(starts, "calibrate", total=len(starts)):
            ids_BT = torch.from_numpy(blocks_NT[start : start + batch_size]).long().to(model.device)
            mask_BT = None if pad_token_id is None else ids_BT != pad_token_id
            width.set_mask(mask_BT)
            depth.set_mask(mask_BT)
            backbone(ids_BT, attention_mask=None if mask_BT is None else mask_BT.long(), use_cache=False)
    num_tokens = blocks_NT.size if pad_token_id is None else int((blocks_NT != pad_token_id).sum())
    logger.info("calibrated on %d samples, %d tokens in %.1f s", len(blocks_NT), num_tokens, time.monotonic() - started)
    return Scores(
        hidden_size=np.sum(list(width.result("hidden_size").values()), axis=0),
        intermediate_size=width.result("intermediate_size"),
        mamba={
            layer: score_C.reshape(shape.mamba_num_heads, shape.mamba_head_dim)
            for layer, score_C in width.result("mamba").items()
        },
        depth=depth.result(),
        num_samples=len(blocks_NT),
        num_tokens=num_tokens,
    )
