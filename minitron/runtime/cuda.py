"""A CUDA device of this machine, as torch sees it."""

import torch

from minitron.runtime.devices import check_device


def live_device(name: str) -> tuple[str, int]:
    """(product name, bytes of memory in total) of a CUDA device such as `cuda:0`.

    Raises:
        MinitronError: torch sees no such device.
    """
    check_device(name)
    device = torch.device(name)
    _, total = torch.cuda.mem_get_info(device)
    return torch.cuda.get_device_name(device), total
