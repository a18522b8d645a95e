"""Devices that models are computed on: what `auto` stands for, and whether torch can use one here."""

import logging

import torch

from minitron.errors import MinitronError
from minitron.settings import AUTO_DEVICE

logger = logging.getLogger(__name__)


def resolve_device(device: str) -> str:
    """The device that a name stands for here: `auto` is cuda where torch sees a CUDA device, else cpu.

    Raises:
        MinitronError: See `check_device`.
    """
    if device == AUTO_DEVICE:
        found = "cuda" if torch.cuda.is_available() else "cpu"
        logger.info("device auto: %s", found)
        return found
    check_device(device)
    return device


def check_device(device: str) -> None:
    """Refuses a device that torch cannot use here.

    Raises:
        MinitronError: The name is not a torch device, or this machine or this build of torch has none such.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise MinitronError(f"device must be one that torch knows, such as cpu or cuda:0, got {device!r}") from error
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if kind == "cuda" and (torch.device(device).index or 0) >= count:
        found = (
            f"it sees {count} CUDA devices, got {device}" if count else f"got {device} and torch sees no CUDA device"
        )
        raise MinitronError(f"device must be one that torch can use here, {found}")
    if kind not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # a kind that torch was built without
            reason = str(error).splitlines()[0]
            raise MinitronError(f"device must be one that torch can use here, got {device}: {reason}") from error
