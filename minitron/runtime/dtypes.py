"""Number formats as torch's own, and which of them a loaded model's tensors have."""

import torch
from transformers import PreTrainedModel

from minitron.dtypes import DTYPES, find_dtype


def torch_dtype(spelling: str) -> torch.dtype:
    """The torch dtype of a format by any of its spellings (bf16, BF16, bfloat16).

    >>> torch_dtype("bf16"), torch_dtype("F32")
    (torch.bfloat16, torch.float32)
    """
    name = find_dtype(spelling)
    assert name is not None, f"no number format is spelled {spelling}"
    dtype: torch.dtype = getattr(torch, str(DTYPES[name].torch))
    return dtype


def held_dtype(model: PreTrainedModel, name: str, dtype: torch.dtype) -> torch.dtype:
    """What a tensor is held in when its model is loaded in a dtype: transformers keeps a few in fp32.

    Args:
        model: The model.
        name: The tensor's name in memory, or the end of it.
        dtype: What the model is loaded in.
    """
    wide: set[str] = set() if dtype.itemsize >= 4 else model._keep_in_fp32_modules_strict or set()
    return torch.float32 if wide.intersection(name.split(".")) else dtype
