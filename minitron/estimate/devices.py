"""Device profiles: the memory that a process sees on a GPU, and the GPU's peak rates. Rows: `_PROFILES`, `_SOURCES`."""

import math
from dataclasses import dataclass

from minitron.errors import BudgetError
from minitron.units import GIB, gib_to_bytes


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as data.

    Attributes:
        name: What the command line calls it.
        visible_gib: Memory that a process sees, in GiB; below the nominal size.
        source: Where the numbers are from.
        product: What CUDA calls the card whose rates these are, without the maker's name.
        bandwidth_gb_s: Peak memory bandwidth, 10^9 bytes a second; None when unknown.
        bf16_tflops: Peak dense bf16 rate of the tensor cores, 10^12 operations a second; None when unknown.
        fp8_tflops: The same in fp8; None where there are no fp8 tensor cores.
        fp32_tflops: The same in fp32; None where bf16's is taken for it.
        is_measured: Whether the rates were reached on this machine, in place of peaks of a data sheet.
    """

    name: str
    visible_gib: float
    source: str
    product: tuple[str, ...] = ()
    bandwidth_gb_s: float | None = None
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    fp32_tflops: float | None = None
    is_measured: bool = False

    @property
    def visible_bytes(self) -> int:
        """Bytes that a process sees."""
        return gib_to_bytes(self.visible_gib)

    def tflops(self, weights_dtype: str) -> float | None:
        """The rate for weights of a number format: its own where there is one, else bf16's."""
        return {"fp8": self.fp8_tflops, "fp32": self.fp32_tflops}.get(weights_dtype) or self.bf16_tflops


# Visible memory is the "total capacity" of torch's out-of-memory reports for that card; reports differ by up to 0.1 GiB
# with the driver, so read the device itself (`--gpu cuda:0`) where the last tenth matters. Rates are dense, half
# of what NVIDIA's data sheets print with sparsity.
_PROFILES: dict[str, tuple[float, tuple[str, ...], float, float, float | None]] = {
    # name: (visible GiB, products, GB/s, bf16 TFLOP/s, fp8 TFLOP/s)
    "a10g": (22.06, ("A10G",), 600, 125, None),
    "l4": (21.96, ("L4",), 300, 121, 242.5),
    "rtx4090": (23.64, ("GeForce RTX 4090",), 1008, 165.2, 330.3),
    "a100-40g": (39.50, ("A100-SXM4-40GB", "A100-PCIE-40GB"), 1555, 312, None),
    "a100-80g": (79.14, ("A100-SXM4-80GB",), 2039, 312, None),
    "h100": (79.11, ("H100 80GB HBM3",), 3350, 989, 1979),
    "h200": (139.8, ("H200",), 4800, 989, 1979),
}
_SOURCES = {
    "a10g": "torch on EC2 g5 (nvidia-smi: 22.49 GiB); rates: NVIDIA A10 data sheet",
    "l4": "torch in github.com/rhymes-ai/Aria/issues/24 (nvidia-smi: 22.49 GiB); rates: NVIDIA L4 data sheet",
    "rtx4090": "torch in github.com/ali-vilab/VGen/issues/104; rates: NVIDIA Ada architecture paper, appendix A",
    "a100-40g": "torch in github.com/TianheWu/CoSeR/issues/10; rates: NVIDIA A100 data sheet",
    "a100-80g": "torch in github.com/lianqi1008/Control-GIC/issues/6; rates: NVIDIA A100 data sheet, SXM",
    "h100": "torch in github.com/vllm-project/vllm/issues/27508; rates: NVIDIA H100 data sheet, SXM",
    "h200": "nvidia-smi (140.4 GiB) less what torch misses on an H100; rates: NVIDIA H200 data sheet",
}
DEVICES = {name: Device(name, row[0], _SOURCES[name], *row[1:]) for name, row in _PROFILES.items()}

# Share of the memory that may be used, by accounting: 5% engine buffer as published (2508.14444); vLLM's own default.
DEFAULT_UTILIZATION = {"plain": 0.95, "vllm": 0.92}


def find_device(name: str) -> Device:
    """The profile of a GPU.

    >>> find_device("a10g").visible_bytes
    23686744637

    Raises:
        BudgetError: There is none of this name.
    """
    if name not in DEVICES:
        raise BudgetError(f"gpu must be one of {', '.join(DEVICES)}, got {name!r}; or give the memory in GiB")
    return DEVICES[name]


def find_product(name: str) -> Device | None:
    """The profile of what CUDA calls a card; None where there is none.

    >>> find_product("NVIDIA A10G").name
    'a10g'
    """
    product = name.removeprefix("NVIDIA ")
    return next((device for device in DEVICES.values() if product in device.product), None)


def usable_bytes(
    memory_bytes: int, *, utilization: float | None = None, reserved_gib: float, accounting: str = "plain"
) -> int:
    """The part of a memory that a model may use: less the engine's buffer and what is reserved for others.

    Args:
        memory_bytes: What a process sees.
        utilization: Share that may be used; the accounting's default when None.
        reserved_gib: GiB reserved for others.
        accounting: plain or vllm.

    Source: arXiv 2508.14444 (5% buffer, 1.3 GiB for a vision encoder on an A10G).

    Raises:
        BudgetError: The share is not above 0 and at most 1, the reserve is negative, or nothing is left.
    """
    if not (math.isfinite(reserved_gib) and reserved_gib >= 0):
        raise BudgetError(f"reserved GiB must be a number that is not negative, got {reserved_gib}")
    utilization = DEFAULT_UTILIZATION[accounting] if utilization is None else utilization
    if not 0 < utilization <= 1:
        raise BudgetError(f"utilization must be above 0 and at most 1, got {utilization}")
    usable = int(memory_bytes * utilization - reserved_gib * GIB)
    if usable <= 0:
        raise BudgetError(f"the budget must leave memory for the model, {memory_bytes:,} bytes leave {usable:,}")
    return usable
