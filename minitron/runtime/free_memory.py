"""Memory that is free now, of this machine or of one of its devices."""

from pathlib import Path

import torch

from minitron.units import KIB

MEMINFO = Path("/proc/meminfo")


def free_bytes(device: str) -> int | None:
    """Bytes that a process could take on a torch device; None where the system does not say.

    Of a CPU it is what Linux counts as available: free, or given back when it is asked for.
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if torch.device(device).type != "cpu" or not MEMINFO.is_file():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * KIB if "MemAvailable" in lines else None
