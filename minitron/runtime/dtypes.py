"""Number formats as torch's own."""

import torch

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
