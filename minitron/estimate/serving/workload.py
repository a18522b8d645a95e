"""What is to be served at once, in which precisions, and by whose accounting."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import get_args

from minitron.dtypes import CacheDtype
from minitron.errors import BudgetError
from minitron.estimate.precision import WEIGHT_FORMATS
from minitron.units import GIB

MAX_TOKENS = 2**40  # beyond it, bits of a large model's cache no longer fit 64-bit integers
ACCOUNTINGS = ("plain", "vllm")
# What vLLM can keep its caches in, among the precisions here (0.33, config/cache.py).
ENGINE_CACHES = {"kv_dtype": ("bf16", "fp16", "fp8"), "ssm_dtype": ("fp32", "bf16", "fp16")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """vLLM's settings, and assumptions about what it allocates beside weights and cache.

    The assumed bytes are (low, high) rules of thumb until somebody measures them on the device at hand.

    Attributes:
        max_num_seqs: Sequences that may run at once.
        max_num_batched_tokens: Tokens of one step, on which activations are profiled at start-up.
        prefix_caching: Whether prefixes are shared (align mode), which doubles the Mamba blocks of a sequence.
        context_bytes: CUDA context, libraries and fragmentation.
        graph_bytes: CUDA graphs.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    prefix_caching: bool = False
    context_bytes: tuple[int, int] = (3 * GIB // 10, 6 * GIB // 10)
    graph_bytes: tuple[int, int] = (GIB // 10, GIB)

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise BudgetError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be served at once, in which precisions, and by whose accounting.

    Attributes:
        context_tokens: Tokens that each sequence holds.
        sequences: Sequences held at once.
        weights_dtype: Precision of the weights.
        kv_dtype: Precision of the attention cache.
        ssm_dtype: Precision of the Mamba state; transformers and vLLM keep Nemotron-H's in fp32.
        conv_dtype: Precision of the convolution state.
        workspace_bytes: Bytes for activations, logits and all else; None leaves it to the accounting: none in plain,
            an estimate in vllm.
        accounting: plain counts what is stored; vllm counts cache blocks as the engine allocates them.
        engine: vLLM's settings, used by its accounting.
    """

    context_tokens: int
    sequences: int = 1
    weights_dtype: str = "bf16"
    kv_dtype: str = "bf16"
    ssm_dtype: str = "fp32"
    conv_dtype: str = "bf16"
    workspace_bytes: int | None = None
    accounting: str = "plain"
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        for name in ("context_tokens", "sequences"):
            if getattr(self, name) < 1:
                raise BudgetError(f"{name} must be at least 1, got {getattr(self, name)}")
        tokens, running = self.context_tokens * self.sequences, self.engine.max_num_seqs
        if tokens > MAX_TOKENS:
            raise BudgetError(f"context_tokens times sequences must be at most {MAX_TOKENS:,}, got {tokens:,}")
        if self.accounting == "vllm" and self.sequences > running:
            raise BudgetError(f"max_num_seqs must be at least the {self.sequences} sequences, got {running}")
        if self.workspace_bytes is not None and self.workspace_bytes < 0:
            raise BudgetError(f"workspace_bytes must not be negative, got {self.workspace_bytes}")
        choices: dict[str, Collection[str]] = {"weights_dtype": WEIGHT_FORMATS, "accounting": ACCOUNTINGS}
        choices |= dict.fromkeys(("kv_dtype", "ssm_dtype", "conv_dtype"), get_args(CacheDtype))
        if self.accounting == "vllm":
            choices |= ENGINE_CACHES
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BudgetError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
