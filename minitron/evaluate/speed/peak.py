"""Peak memory of this process on a device, counted from a moment on."""

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def start_counting(device: str) -> int:
    """Bytes that are held now, to be taken from later peaks."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_reserved(device)
    return _resident("VmRSS") if _STATUS.exists() else peak_bytes(device)


def peak_bytes(device: str) -> int:
    """Most bytes that were held so far: reserved by torch on a GPU, resident on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if _STATUS.exists():
        return _resident("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _resident(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
