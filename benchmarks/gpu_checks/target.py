"""Where checks run and how large they are."""

import time
from dataclasses import dataclass

import torch

from gpu_checks.row import Row, not_run
from minitron.estimate.devices import Device, find_product
from minitron.units import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the checks are.

    Attributes:
        rows: Rows and columns of logits that the kernel is given.
        errors: Tokens, hidden size and vocabulary at which the whole loss is compared.
        loss: The same at which it is timed.
        rounds: Times that the loss is timed.
        patterns: Blocks of teacher and student in training, the first that fit.
        shrink: What widths and vocabulary of the models are divided by.
        seq_len: Tokens of a sequence of text in training.
        batch_size: Sequences of a training step.
        left_out: First steps, in which memory and kernels are warmed up.
        steps: Steps that are timed.
        scored: Blocks that are scored.
        samples: Samples that they are scored on, and tokens of each.
        mixer_tokens: Tokens at which Mamba's kernels are compared.
    """

    rows: tuple[int, int]
    errors: tuple[int, int, int]
    loss: tuple[int, int, int]
    rounds: int
    patterns: tuple[str, ...]
    shrink: int
    seq_len: int
    batch_size: int
    left_out: int
    steps: int
    scored: str
    samples: tuple[int, int]
    mixer_tokens: int


# Blocks as in the 12B's first period, fewer of the two frequent kinds.
FULL = Sizes(
    rows=(64, 131072),
    errors=(512, 256, 32768),
    loss=(4096, 5120, 131072),
    rounds=5,
    patterns=("M-M-M-M*", "M-M-M*", "M-M*", "M-*"),
    shrink=1,
    seq_len=4096,
    batch_size=4,
    left_out=2,
    steps=3,
    scored="M-M*",
    samples=(8, 2048),
    mixer_tokens=2048,
)
TINY = Sizes(
    rows=(2, 300),
    errors=(24, 16, 300),
    loss=(24, 16, 300),
    rounds=1,
    patterns=("M-*",),
    shrink=64,
    seq_len=32,
    batch_size=1,
    left_out=1,
    steps=1,
    scored="M*",
    samples=(2, 16),
    mixer_tokens=20,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a check runs, and how large it is.

    Attributes:
        device: cuda or cpu.
        sizes: How large.
    """

    device: str
    sizes: Sizes

    @property
    def on_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What timings compute in: bf16 on a GPU, fp32 on a CPU."""
        return torch.bfloat16 if self.on_cuda else torch.float32

    @property
    def name(self) -> str:
        """What CUDA calls the card."""
        return torch.cuda.get_device_name() if self.on_cuda else "cpu"

    @property
    def profile(self) -> Device | None:
        """The card's rates; None where they are not known."""
        return find_product(self.name)

    @property
    def no_profile(self) -> str:
        """What to say where they are not known."""
        return f"the peak rate of {self.name} is not known: it has no row in minitron/estimate/devices.py"

    def now(self) -> float:
        """Seconds, once all that was started is done."""
        if self.on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def restart_peak(self) -> None:
        """Forgets the most memory so far."""
        if self.on_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self, measured: str, reference_bytes: float, reference_is: str, *, reserved: bool = False) -> Row:
        """The row of the most memory since then: of tensors, or what the allocator took for them."""
        if not self.on_cuda:
            return not_run(measured, "not measured: peak memory is read of CUDA's allocator alone")
        most = torch.cuda.max_memory_reserved() if reserved else torch.cuda.max_memory_allocated()
        return Row(
            measured=measured,
            value=most / GIB,
            unit="GiB",
            reference=reference_bytes / GIB,
            reference_is=reference_is,
        )
