"""Memory model: the bytes that a hybrid model needs at a context and a number of sequences. Pure arithmetic."""

from dataclasses import dataclass, field, fields

from minitron.hybrid.shape import HybridShape

GIB = 2**30
DTYPE_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be served at once, and in which precisions.

    Attributes:
        context_tokens: Tokens that each sequence holds.
        sequences: Sequences held at once.
        weights_dtype: Precision of the weights.
        kv_dtype: Precision of the attention cache.
        ssm_dtype: Precision of the Mamba state; transformers and vLLM keep Nemotron-H's in fp32.
        conv_dtype: Precision of the convolution state.
        workspace_bytes: Bytes for activations and logits, as an assumption of the user's.
    """

    context_tokens: int
    sequences: int = 1
    weights_dtype: str = "bf16"
    kv_dtype: str = "bf16"
    ssm_dtype: str = "fp32"
    conv_dtype: str = "bf16"
    workspace_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("context_tokens", "sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.workspace_bytes < 0:
            raise ValueError(f"workspace_bytes must not be negative, got {self.workspace_bytes}")
        for name in ("weights_dtype", "kv_dtype", "ssm_dtype", "conv_dtype"):
            if getattr(self, name) not in DTYPE_BITS:
                raise ValueError(f"{name} must be one of {', '.join(DTYPE_BITS)}, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBytes:
    """Bytes by what they hold."""

    weights_bytes: int
    kv_bytes: int
    ssm_bytes: int
    conv_bytes: int
    workspace_bytes: int
    total_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        parts = (getattr(self, part.name) for part in fields(self) if part.init)
        object.__setattr__(self, "total_bytes", sum(parts))


def memory_bytes(shape: HybridShape, workload: Workload) -> MemoryBytes:
    """Bytes of weights, caches and workspace, by plain accounting (no pages, no engine overhead).

    The Mamba state is `[sequences, heads, head_dim, state]`. The convolution state holds the `conv_kernel - 1` inputs
    that vLLM keeps; transformers 5.23 allocates one more.
    """
    kv_per_token = 2 * shape.num_key_value_heads * shape.head_dim
    state = shape.mamba_num_heads * shape.mamba_head_dim * shape.ssm_state_size
    conv_inputs = shape.mamba_num_heads * shape.mamba_head_dim + 2 * shape.n_groups * shape.ssm_state_size
    tokens = workload.context_tokens * workload.sequences
    return MemoryBytes(
        weights_bytes=_bytes(shape.params, workload.weights_dtype),
        kv_bytes=_bytes(shape.count("*") * kv_per_token * tokens, workload.kv_dtype),
        ssm_bytes=_bytes(shape.count("M") * state * workload.sequences, workload.ssm_dtype),
        conv_bytes=_bytes(
            shape.count("M") * conv_inputs * (shape.conv_kernel - 1) * workload.sequences, workload.conv_dtype
        ),
        workspace_bytes=workload.workspace_bytes,
    )


def _bytes(elements: int, dtype: str) -> int:
    return elements * DTYPE_BITS[dtype] // 8
