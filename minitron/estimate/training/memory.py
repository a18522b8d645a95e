"""Memory of training on one device: weights, gradients and optimizer are counted, all else is estimated.

Nothing here was measured on a GPU.
"""

# D hidden, V vocabulary

from dataclasses import dataclass, field, fields, replace

from minitron.dtypes import dtype_bytes
from minitron.estimate.serving.fit import FITS, TIGHT, TIGHT_SHARE, TOO_LARGE
from minitron.estimate.training.activations import activation_bytes, block_activation_bytes
from minitron.estimate.training.operations import head_params
from minitron.estimate.training.setup import OPTIMIZER_BYTES, TrainingSetup
from minitron.models.axes import tensor_numel
from minitron.models.shape import HybridShape
from minitron.units import GIB

# CUDA's context, NCCL's buffers and what the allocator cannot use: assumed.
OVERHEAD_BYTES = 3 * GIB // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBytes:
    """Bytes on one device, by what they hold.

    Attributes:
        weights_bytes: Trained weights, or this device's shard of them.
        gradients_bytes: Their gradients; with DDP also its buckets.
        optimizer_bytes: The optimizer's state.
        passing_bytes: The larger of two that do not exist at once: bf16 copies that autocast makes of fp32 weights and
            the backward pass needs (of one block where blocks are recomputed), and whole gradients of what is gathered.
        teacher_bytes: The teacher's weights; of a layerwise one a block, the head and a window of hidden states.
        gathered_bytes: Weights that FSDP gathers for the blocks in use.
        activations_bytes: What the backward pass needs, estimated.
        loss_bytes: Chunks of logits, the head's gradient in fp32, last hidden states.
        overhead_bytes: Context, communication, fragmentation: assumed.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    passing_bytes: int
    teacher_bytes: int
    gathered_bytes: int
    activations_bytes: int
    loss_bytes: int
    overhead_bytes: int = OVERHEAD_BYTES
    total_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        parts = (getattr(self, part.name) for part in fields(self) if part.init)
        object.__setattr__(self, "total_bytes", sum(parts))


def training_bytes(student: HybridShape, teacher: HybridShape | None, setup: TrainingSetup) -> TrainingBytes:
    """Bytes that one device needs in a step, estimated.

    Args:
        student: The trained model.
        teacher: The teacher; None without one.
        setup: Settings of the training.
    """
    shards = setup.devices if setup.sharded else 1
    weight = dtype_bytes(setup.weights_dtype)
    gradients = student.params * weight
    buckets = gradients if setup.devices > 1 and not setup.sharded else 0
    copied = _largest_block(student) if setup.checkpointing else student.params
    state = OPTIMIZER_BYTES.get(setup.optim, OPTIMIZER_BYTES["adamw_torch"])(weight)
    return TrainingBytes(
        weights_bytes=student.params * weight // shards,
        gradients_bytes=gradients // shards + buckets,
        optimizer_bytes=int(student.params * state) // shards,
        passing_bytes=max(
            2 * copied if setup.product_bytes < setup.stream_bytes else 0,
            weight * _gathered_params(student) if shards > 1 else 0,
        ),
        teacher_bytes=_teacher_bytes(teacher, setup) // shards,
        gathered_bytes=_gathered_bytes(student, teacher, setup) if shards > 1 else 0,
        activations_bytes=setup.tokens * activation_bytes(student, setup),
        loss_bytes=_loss_bytes(student, teacher, setup),
    )


def writing_bytes(teacher: HybridShape, setup: TrainingSetup) -> TrainingBytes:
    """Bytes that one device needs to write a teacher cache: the teacher, a block's activations, a chunk of logits."""
    numbers = max(block_activation_bytes(teacher, kind, setup) for kind, count in teacher.counts.items() if count)
    return TrainingBytes(
        weights_bytes=0,
        gradients_bytes=0,
        optimizer_bytes=0,
        passing_bytes=0,
        teacher_bytes=_teacher_bytes(teacher, setup),
        gathered_bytes=0,
        activations_bytes=setup.tokens * numbers,
        loss_bytes=min(setup.chunk_tokens, setup.tokens) * teacher.vocab_size * 4,
    )


def longest_sequence(student: HybridShape, teacher: HybridShape | None, setup: TrainingSetup, memory_bytes: int) -> int:
    """Tokens of the longest sequence that a memory holds, all other settings unchanged; 0 when none fits."""
    low, high = 0, 2**24
    while low < high:
        tokens = (low + high + 1) // 2
        trial = replace(setup, seq_len=tokens)
        if training_bytes(student, teacher, trial).total_bytes <= memory_bytes:
            low = tokens
        else:
            high = tokens - 1
    return low


def training_verdict(total_bytes: int, memory_bytes: int) -> str:
    """`fits`, `tight` where less than 5% is left, or `does not fit`."""
    if total_bytes <= (1 - TIGHT_SHARE) * memory_bytes:
        return FITS
    return TIGHT if total_bytes <= memory_bytes else TOO_LARGE


def _teacher_bytes(teacher: HybridShape | None, setup: TrainingSetup) -> int:
    if teacher is None or setup.teacher_mode in (None, "cached"):
        return 0
    if setup.teacher_mode == "layerwise":  # computed in fp32
        window = setup.window_sequences * setup.seq_len * teacher.hidden_size
        return 4 * (_largest_block(teacher) + head_params(teacher) + window)
    return teacher.params * dtype_bytes(setup.teacher_dtype)


def _gathered_bytes(student: HybridShape, teacher: HybridShape | None, setup: TrainingSetup) -> int:
    gathered = dtype_bytes(setup.weights_dtype) * _gathered_params(student)
    if teacher is not None and setup.teacher_mode == "online":
        gathered += dtype_bytes(setup.teacher_dtype) * _gathered_params(teacher)
    return gathered


def _gathered_params(shape: HybridShape) -> int:
    # Two blocks, since one is computed while the next one arrives, and what lies outside the blocks.
    outside = sum(tensor_numel(spec, shape.sizes) for spec in shape.family.tensors_outside(shape.sizes))
    return 2 * _largest_block(shape) + outside


def _loss_bytes(student: HybridShape, teacher: HybridShape | None, setup: TrainingSetup) -> int:
    taught = teacher is not None and setup.teacher_mode in ("online", "layerwise")
    logits = min(setup.chunk_tokens, setup.tokens) * student.vocab_size * 4 * (2 if taught else 1)
    head_gradient = 4 * head_params(student)
    hidden = setup.tokens * (student.hidden_size * (setup.stream_bytes + 4))
    if taught and teacher is not None:
        hidden += setup.tokens * teacher.hidden_size * dtype_bytes(setup.teacher_dtype)
    return logits + head_gradient + hidden


def _largest_block(shape: HybridShape) -> int:
    return max(shape.block_params(kind) for kind, count in shape.counts.items() if count)
