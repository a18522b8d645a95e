"""Autocast that holds no narrow copies of weights."""

from contextlib import nullcontext

import torch


def autocast_without_copies(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Inside autocast: the same, but narrow copies of weights are dropped as soon as they are used.

    Autocast keeps them until the forward pass ends, 2 bytes a parameter, for weights that are used again. Those of a
    block are used once, and a block that is recomputed makes its copies anew.
    """
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.get_autocast_dtype(device.type), cache_enabled=False)
