"""Estimates of training: operations a token, tokens and steps of a phase, and hours on given devices.

Counted are two operations a weight and token in every forward product, attention's products over the causal half of a
sequence (within its window where a layer has one), and the products of the chunked scans of Mamba-2 and gated DeltaNet.
A backward pass takes twice the forward's; gradient checkpointing runs the forward pass of the blocks once more. The
loss forms both logits and two gradients from them, and never again: its products are those of the two heads. Norms,
activations, optimizer and communication are left out.
"""

# T tokens, L layers, D hidden, V vocabulary, W window, Q tokens of a scan's chunk
# H recurrent heads, P channels of their values, G groups that share a key, N channels of a key

from dataclasses import dataclass

from minitron.errors import BudgetError
from minitron.estimate.devices import Device
from minitron.models.axes import tensor_numel
from minitron.models.shape import HybridShape

# chunk_size in the published configurations; a chunk of 256 adds under 1% to a block of the model.
SCAN_CHUNK = 128
# What transformers and the kernels of flash-linear-attention take for the delta rule.
DELTA_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLength:
    """Length of a phase of training.

    Attributes:
        seq_len: Tokens a sequence.
        batch_size: Sequences a step.
        sequences: Packed sequences of text.
        steps: Optimizer steps, all epochs together.
    """

    seq_len: int
    batch_size: int
    sequences: int
    steps: int

    @property
    def trained_tokens(self) -> int:
        """Tokens that the student is trained on, in whole steps."""
        return self.steps * self.batch_size * self.seq_len

    @property
    def packed_tokens(self) -> int:
        """Tokens of packed text."""
        return self.sequences * self.seq_len


def phase_length(tokens: int, *, seq_len: int, batch_size: int, epochs: int = 1) -> PhaseLength:
    """Sequences and steps of a phase, as training counts them.

    >>> phase_length(1000, seq_len=16, batch_size=4, epochs=2).steps
    31
    """
    sequences = max(1, tokens // seq_len)
    steps = sequences * epochs // max(1, batch_size)
    return PhaseLength(seq_len=seq_len, batch_size=batch_size, sequences=sequences, steps=steps)


def block_operations(shape: HybridShape, seq_len: int) -> int:
    """Operations of all blocks' forward pass for one token of a sequence of `seq_len` tokens.

    Source of the scans' terms: arXiv 2405.21060, section 6 (block decomposition of SSD), and arXiv 2412.06464, section
    3.3 (chunkwise gated delta rule, without the inverse of its triangular matrix); dense within a chunk.
    """
    counts, sizes, family = shape.counts, shape.sizes, shape.family
    weights = 2 * (family.active_params(counts, sizes) - head_params(shape))
    # Scores and weighted values, of every earlier token that is seen.
    seen = 2 * 2 * sizes["num_attention_heads"] * sizes["head_dim"]
    attention = family.num_keeping("kv", counts) * (seen * seq_len // 2)
    if windows := family.num_keeping("window", counts):
        window = min(sizes["sliding_window"], seq_len)
        # T / 2 tokens in the mean, less the (T - W)^2 / 2 T that are beyond the window.
        attention += windows * (seen * window * (2 * seq_len - window) // (2 * seq_len))
    return weights + attention + family.num_keeping("state", counts) * _scan(shape)


def head_params(shape: HybridShape) -> int:
    """Weights that turn a hidden state into logits."""
    head = next(spec for spec in shape.family.model_tensors if spec.name == shape.head_tensor)
    return tensor_numel(head, shape.sizes)


def forward_operations(shape: HybridShape, seq_len: int) -> int:
    """Operations of a whole forward pass for one token, logits included."""
    return block_operations(shape, seq_len) + 2 * head_params(shape)


def training_operations(
    student: HybridShape, seq_len: int, *, teacher: HybridShape | None = None, checkpointing: bool = False
) -> int:
    """Operations of training for one token.

    Args:
        student: What is trained.
        seq_len: Tokens a sequence.
        teacher: A teacher that runs forward on each batch; None where there is none, or its targets are cached.
        checkpointing: Blocks run forward once more in the backward pass; the head does not.
    """
    passes = 4 if checkpointing else 3
    trained = passes * block_operations(student, seq_len) + 3 * 2 * head_params(student)
    return trained + (0 if teacher is None else forward_operations(teacher, seq_len))


def device_hours(operations: float, device: Device, *, mfu: float) -> float:
    """Hours that one device takes, at a share of its peak bf16 rate.

    Raises:
        BudgetError: The device's rate is unknown.
    """
    if device.bf16_tflops is None:
        raise BudgetError(f"hours need the bf16 rate of {device.name}, it has none")
    return operations / (device.bf16_tflops * 1e12 * mfu) / 3600


def _scan(shape: HybridShape) -> int:
    state = shape.family.state
    if state is None or not shape.family.num_keeping("state", shape.counts):
        return 0
    sizes = shape.sizes
    channels_HP = sizes[state.heads] * sizes[state.value_dim]
    matrix_HPN = state.matrix_numbers(sizes)
    if state.delta_rule:
        # Keys with keys, with what they read and with queries; values before and after what was there is taken away.
        within = 2 * DELTA_CHUNK * (3 * sizes[state.heads] * sizes[state.key_dim] + 2 * channels_HP)
        return within + 3 * 2 * matrix_HPN  # read by keys and by queries, and written
    # C B^T of each group, and what it weighs; into the chunk's state, and out of the one before.
    return 2 * SCAN_CHUNK * (sizes[state.key_groups] * sizes[state.key_dim] + channels_HP) + 2 * 2 * matrix_HPN
