"""This machine's CPU as a device profile: its memory, and the rates that torch reaches in a second or two."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from minitron.estimate.devices import Device
from minitron.units import GIB

# A matrix that no cache holds, and one whose product takes long enough to be timed.
STREAMED_BYTES = 2**28
PRODUCT_SIZE = 512
REPETITIONS = 5
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def has_cuda() -> bool:
    """Whether torch sees a GPU here."""
    return torch.cuda.is_available()


def measure_cpu(threads: int | None = None) -> Device:
    """Profile of this CPU.

    The bandwidth is that of matrix-vector products in fp32, which read each weight once, as decoding does; the rates
    are those of square matrix products in fp32 and bf16. Each is the best of five: what else runs can only slow them.

    Args:
        threads: Threads to compute with; torch's own number when None.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return Device(
            name="this machine's CPU",
            visible_gib=_memory_bytes() / GIB,
            source=f"measured with {torch.get_num_threads()} threads of torch {torch.__version__}",
            bandwidth_gb_s=_bandwidth() / 1e9,
            bf16_tflops=_product_rate(torch.bfloat16) / 1e12,
            fp32_tflops=_product_rate(torch.float32) / 1e12,
            is_measured=True,
        )
    finally:
        torch.set_num_threads(before)


def _bandwidth() -> float:
    vector_C = torch.ones(8192)
    matrix_RC = torch.ones(STREAMED_BYTES // 4 // 8192, 8192)
    return STREAMED_BYTES / _seconds(lambda: matrix_RC @ vector_C)


def _product_rate(dtype: torch.dtype) -> float:
    square = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype)
    return 2 * PRODUCT_SIZE**3 / _seconds(lambda: square @ square)


@torch.no_grad()
def _seconds(work: Callable[[], torch.Tensor]) -> float:
    work()
    found = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def _memory_bytes() -> int:
    """Memory of the machine, or less where this process is limited to less (cgroups)."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text(encoding="ascii").strip() for path in _LIMITS if path.is_file()]
    return min([whole, *(int(limit) for limit in limits if limit.isdigit())])
