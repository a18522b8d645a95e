"""The cache as vLLM allocates it for a hybrid: cache blocks of one size that attention and Mamba layers share.

Source: vLLM 0.33, v1/worker/gpu_worker.py (determine_available_memory), platforms/interface.py (block size of hybrid
models) and v1/core/kv_cache_planning.py (groups); Apache-2.0. One block of the pool, which vLLM keeps as its null block
(21 MB of a 9B's), is left to the assumed range of the workspace.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import numpy as np

from minitron.estimate.serving.cache import conv_state_bits, kv_token_bits, ssm_state_bits
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import SizeT, dim_size
from minitron.models.families.family import Family

BLOCK_MULTIPLE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBlocks(Generic[SizeT]):
    """vLLM's cache blocks for one model and workload.

    Attributes:
        block_tokens: Tokens of one cache block of attention; 0 without attention.
        page_bytes: Bytes of one cache block in one layer; Mamba states are padded to it.
        group: Layers that share one block of the pool.
        attention_blocks: Pool blocks of one sequence for its attention cache.
        mamba_blocks: Pool blocks of one sequence for its Mamba states.
    """

    block_tokens: SizeT
    page_bytes: SizeT
    group: int
    attention_blocks: SizeT
    mamba_blocks: int

    @property
    def pool_block_bytes(self) -> SizeT:
        """Bytes of one block of the pool."""
        return self.page_bytes * self.group

    @property
    def blocks_per_sequence(self) -> SizeT:
        """Pool blocks that one sequence takes."""
        return self.attention_blocks + self.mamba_blocks


def cache_blocks(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> CacheBlocks[SizeT] | None:
    """Cache blocks of a model; None for one without attention and Mamba blocks, which keeps nothing."""
    attention, mamba = family.num_keeping("kv", counts), family.num_keeping("state", counts)
    if not attention and not mamba:
        return None
    token = kv_token_bits(sizes, workload) // 8
    state = (ssm_state_bits(sizes, workload) + conv_state_bits(sizes, workload)) // 8
    multiples = -(-state // (BLOCK_MULTIPLE * token)) if mamba else token // token
    block = BLOCK_MULTIPLE * multiples if attention else 0 * token
    page = block * token if attention else state
    group = _group(attention, mamba)
    per_layer = -(-workload.context_tokens // block) if attention else 0 * token
    states = 2 if workload.engine.prefix_caching else 1
    return CacheBlocks(
        block_tokens=block,
        page_bytes=page,
        group=group,
        attention_blocks=-(-attention // group) * per_layer,
        mamba_blocks=-(-mamba // group) * states,
    )


def paged_cache_bytes(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> dict[str, SizeT]:
    """Bytes that the pool needs for all sequences; what pads a Mamba state to a page is counted with the state."""
    blocks = cache_blocks(family, counts, sizes, workload)
    if blocks is None:
        nothing = 0 * sizes["hidden_size"]
        return {"kv_bytes": nothing, "ssm_bytes": nothing, "conv_bytes": nothing}
    pool_block = blocks.pool_block_bytes * workload.sequences
    conv = family.num_keeping("state", counts) * workload.sequences * conv_state_bits(sizes, workload) // 8
    return {
        "kv_bytes": blocks.attention_blocks * pool_block,
        "ssm_bytes": blocks.mamba_blocks * pool_block - conv,
        "conv_bytes": conv,
    }


def workspace_range(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> tuple[SizeT, SizeT]:
    """(low, high) bytes beside weights and cache: as given, none by plain accounting, else an estimate.

    The estimate adds the engine's assumed context and graphs to the peak of a profiled step: the residual stream and
    the widest projection of a block (once, or with its input twice) in 16 bits, and the logits of every running
    sequence in fp32 (once, or with the sampler's copy).
    """
    nothing = 0 * sizes["hidden_size"]
    if workload.workspace_bytes is not None:
        return nothing + workload.workspace_bytes, nothing + workload.workspace_bytes
    if workload.accounting == "plain":
        return nothing, nothing
    engine = workload.engine
    widest = nothing
    for kind, count in counts.items():
        for spec in family.tensors_of(kind, sizes) if count else ():
            if len(spec.dims) == 2:
                widest = np.maximum(widest, dim_size(spec.dims[0], sizes))
    step = engine.max_num_batched_tokens * (sizes["hidden_size"] + widest) * 2
    logits = engine.max_num_seqs * sizes["vocab_size"] * 4
    low, high = engine.overhead_bytes
    return low + step + logits, high + 2 * step + 2 * logits


def _group(attention: int, mamba: int) -> int:
    few, many = sorted((attention, mamba))
    if few == 0:
        return many
    return many if many < 1.5 * few else few
