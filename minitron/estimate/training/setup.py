"""Settings of training that its memory depends on, and the state that optimizers keep."""

from collections.abc import Callable
from dataclasses import dataclass

from minitron.dtypes import dtype_bytes

# Name in Hugging Face Trainer -> bytes of optimizer state a parameter, from the bytes of a weight. torch's own keep
# states in the weights' dtype; 8-bit ones carry an fp32 scale for 256 entries (torchao, bitsandbytes; Trainer asks the
# same of torchao's 4-bit one). adafactor keeps a row and a column of each matrix.
OPTIMIZER_BYTES: dict[str, Callable[[int], float]] = {
    "adamw_torch": lambda weight: 2 * weight,
    "adamw_torch_fused": lambda weight: 2 * weight,
    "adamw_torch_8bit": lambda weight: 2 * (1 + 4 / 256),
    "adamw_torch_4bit": lambda weight: 2 * (1 / 2 + 4 / 256),
    "adamw_bnb_8bit": lambda weight: 2 * (1 + 4 / 256),
    "adamw_8bit": lambda weight: 2 * (1 + 4 / 256),
    "paged_adamw_32bit": lambda weight: 8,
    "paged_adamw_8bit": lambda weight: 2 * (1 + 4 / 256),
    "lion_32bit": lambda weight: 4,
    "lion_8bit": lambda weight: 1 + 4 / 256,
    "paged_lion_32bit": lambda weight: 4,
    "paged_lion_8bit": lambda weight: 1 + 4 / 256,
    "adagrad": lambda weight: weight,
    "rmsprop": lambda weight: weight,
    "adafactor": lambda weight: 0,
    "sgd": lambda weight: 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """Settings of a phase of training that its memory depends on.

    Attributes:
        seq_len: Tokens a sequence.
        micro_batch_size: Sequences in one forward pass of a device.
        devices: Processes, a device each.
        context_parallel: Devices that hold each sequence together, a part each.
        sharded: Student, teacher, gradients and optimizer in shards (FSDP2); else a copy of each on every device (DDP).
        checkpointing: Blocks are recomputed in the backward pass.
        offloaded: The activations that recomputation starts from are kept on the host.
        weights_dtype: Precision of trained weights and their gradients, fp32 or bf16.
        precision: Precision of the blocks' products.
        optim: Optimizer by its name in Hugging Face Trainer.
        chunk_tokens: Tokens whose logits are held at once.
        teacher_mode: online, layerwise or cached; None without a teacher.
        teacher_dtype: Precision of an online teacher.
        window_sequences: Sequences whose last hidden states a layerwise teacher holds.
    """

    seq_len: int
    micro_batch_size: int
    devices: int = 1
    context_parallel: int = 1
    sharded: bool = False
    checkpointing: bool = False
    offloaded: bool = False
    weights_dtype: str = "fp32"
    precision: str = "fp32"
    optim: str = "adamw_torch"
    chunk_tokens: int = 512
    teacher_mode: str | None = "online"
    teacher_dtype: str = "fp32"
    window_sequences: int = 64

    @property
    def stream_bytes(self) -> int:
        """Bytes of a number in the residual stream: autocast leaves it in the weights' precision."""
        return dtype_bytes(self.weights_dtype)

    @property
    def product_bytes(self) -> int:
        """Bytes of a number that a matrix product reads or writes: with fp8 the backward pass keeps both in bf16."""
        kept = "bf16" if self.precision == "fp8" else self.precision
        return min(dtype_bytes(self.weights_dtype), dtype_bytes(kept))

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass of a device, of the longest part where sequences lie in parts."""
        return -(-self.seq_len // self.context_parallel) * self.micro_batch_size
