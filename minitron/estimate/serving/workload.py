"""What is served: sequences and context, number formats, accounting, vLLM's settings, tokens in and out."""

from typing import Literal, Self

from pydantic import Field, model_validator

from minitron.dtypes import CacheDtype, WeightsDtype
from minitron.errors import BudgetError
from minitron.settings import NonNegativeFloat, PositiveInt, Settings
from minitron.units import gib_to_bytes

MAX_TOKENS = 2**40  # beyond it, bits of a large model's cache no longer fit 64-bit integers
# Formats that vLLM can keep its caches in (0.33, config/cache.py).
ENGINE_CACHES = {
    "kv_dtype": ("fp32", "bf16", "fp16", "fp8"),
    "ssm_dtype": ("fp32", "bf16", "fp16"),
    "conv_dtype": ("fp32", "bf16", "fp16"),
}


class Engine(Settings):
    """vLLM's settings, and assumptions about what it allocates beside weights and cache; used by its accounting."""

    max_num_seqs: PositiveInt = Field(default=256, description="Sequences that may run at once.")
    max_num_batched_tokens: PositiveInt = Field(
        default=2048, description="Tokens of one step, on which activations are profiled at start-up."
    )
    prefix_caching: bool = Field(
        default=True,
        description="Share prefixes, as vLLM does unless told otherwise; triples a sequence's Mamba states.",
    )
    block_size: PositiveInt = Field(
        default=16,
        description="Tokens that blocks of the attention cache are a multiple of (16 on CUDA, vLLM takes 128 on CPUs).",
    )
    async_scheduling: bool = Field(
        default=True,
        description="Schedule a step while another runs, as vLLM does on GPUs; windows keep the tokens of both.",
    )
    context_gib: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        default=(0.3, 0.6), description="Assumed CUDA context, libraries and fragmentation, low and high."
    )
    graph_gib: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        default=(0.1, 1.0), description="Assumed CUDA graphs, low and high."
    )

    @property
    def tokens_in_flight(self) -> int:
        """Most tokens that are scheduled and not yet done, for which a window keeps what they still see."""
        return self.max_num_batched_tokens * (2 if self.async_scheduling else 1)

    @property
    def overhead_bytes(self) -> tuple[int, int]:
        """Assumed bytes of CUDA context and graphs, low and high."""
        low, high = (
            gib_to_bytes(context) + gib_to_bytes(graphs)
            for context, graphs in zip(self.context_gib, self.graph_gib, strict=True)
        )
        return low, high


class Workload(Settings):
    """What is served at once, in which number formats, and by whose accounting."""

    context_tokens: PositiveInt = Field(description="Tokens that each sequence must hold.")
    sequences: PositiveInt = Field(default=1, description="Sequences held at once.")
    weights_dtype: WeightsDtype = Field(default="bf16", description="Precision of the weights.")
    kv_dtype: CacheDtype = Field(default="bf16", description="Precision of the attention cache.")
    ssm_dtype: CacheDtype = Field(default="fp32", description="Precision of the Mamba state, fp32 in HF and vLLM.")
    conv_dtype: CacheDtype = Field(default="bf16", description="Precision of the convolution state.")
    workspace_gib: NonNegativeFloat | None = Field(
        default=None, description="GiB for activations and logits; when null 0 (plain) or an estimate (vllm)."
    )
    accounting: Literal["plain", "vllm"] = Field(
        default="plain", description="plain counts what is stored; vllm counts cache blocks as the engine allocates."
    )
    engine: Engine = Field(default=Engine(), description="vLLM's settings.")

    @model_validator(mode="after")
    def _can_be_served(self) -> Self:
        tokens, running = self.context_tokens * self.sequences, self.engine.max_num_seqs
        if tokens > MAX_TOKENS:
            raise BudgetError(f"context_tokens times sequences must be at most {MAX_TOKENS:,}, got {tokens:,}")
        if self.accounting == "vllm":
            if self.sequences > running:
                raise BudgetError(f"max_num_seqs must be at least the {self.sequences} sequences, got {running}")
            for name, allowed in ENGINE_CACHES.items():
                if getattr(self, name) not in allowed:
                    raise BudgetError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
            if self.kv_dtype == "fp32" != self.conv_dtype:
                raise BudgetError(
                    f"kv_dtype fp32 is vLLM's --dtype float32, so conv_dtype must be fp32, got {self.conv_dtype}"
                )
        return self

    @property
    def workspace_bytes(self) -> int | None:
        """Bytes for activations and logits; None leaves them to the accounting."""
        return None if self.workspace_gib is None else gib_to_bytes(self.workspace_gib)

    def changed(self, **changes: object) -> "Workload":
        """The workload with some settings changed, validated."""
        return Workload.model_validate({name: getattr(self, name) for name in Workload.model_fields} | changes)


class Lengths(Settings):
    """Tokens in and out of each request."""

    input_tokens: PositiveInt = Field(default=8192, description="Tokens in, 8192 as published (2508.14444).")
    output_tokens: PositiveInt = Field(default=16384, description="Tokens out, 16384 as published (2508.14444).")
