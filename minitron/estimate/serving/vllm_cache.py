"""The cache as vLLM allocates it for a hybrid: cache blocks of one size that attention and Mamba layers share.

Source: vLLM 0.32, platforms/interface.py (block size of hybrid models), model_executor/layers/mamba/mamba_mixer2.py and
v1/kv_cache_interface.py (Mamba blocks of a sequence), v1/core/kv_cache_utils.py (groups, pool, null block; 0.33 has
groups in v1/core/kv_cache_planning.py), v1/worker/gpu_worker.py (determine_available_memory); Apache-2.0.
`tests/engines/test_vllm_planner.py` runs these functions of 0.32 and demands the same numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import numpy as np

from minitron.estimate.serving.cache import conv_state_bits, kv_token_bits, ssm_state_bits
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import SizeT, dim_size
from minitron.models.families.family import Family

# Blocks of a sequence in each group of Mamba blocks: its state; with shared prefixes also the state at the last block
# boundary, and one that Mamba-2's prefill exports on its way.
STATES, STATES_WITH_PREFIXES = 1, 3
# The pool's first block stands for "no block" in block tables and is never handed out.
NULL_BLOCKS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBlocks(Generic[SizeT]):
    """vLLM's cache blocks for one model and workload.

    Attributes:
        block_tokens: Tokens of one cache block of attention; 0 without attention.
        page_bytes: Bytes of one cache block in one layer; Mamba states are padded to it.
        group: Layers that share one block of the pool.
        num_groups: Groups of layers, each with a block table of its own.
        attention_blocks: Pool blocks of one sequence for its attention cache.
        mamba_blocks: Pool blocks of one sequence for its Mamba states.
    """

    block_tokens: SizeT
    page_bytes: SizeT
    group: int
    num_groups: int
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
    # A block holds a Mamba state of the configuration's sizes even where no Mamba block is left, unless attention
    # blocks are all there is: then vLLM takes the model for no hybrid.
    multiples = -(-state // (workload.engine.block_size * token)) if attention < sum(counts.values()) else token * 0
    block = workload.engine.block_size * (multiples + (multiples == 0)) if attention else 0 * token
    page = block * token if attention else state
    group = _group(attention, mamba)
    attention_groups, mamba_groups = -(-attention // group), -(-mamba // group)
    per_layer = -(-workload.context_tokens // block) if attention else 0 * token
    states = STATES_WITH_PREFIXES if workload.engine.prefix_caching else STATES
    return CacheBlocks(
        block_tokens=block,
        page_bytes=page,
        group=group,
        num_groups=attention_groups + mamba_groups,
        attention_blocks=attention_groups * per_layer,
        mamba_blocks=mamba_groups * states,
    )


def paged_cache_bytes(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> dict[str, SizeT]:
    """Bytes that the pool needs for all sequences, its null block included.

    What pads a Mamba state to a page is counted with the state, the null block with the attention cache where there is
    one.
    """
    blocks = cache_blocks(family, counts, sizes, workload)
    if blocks is None:
        nothing = 0 * sizes["hidden_size"]
        return {"kv_bytes": nothing, "ssm_bytes": nothing, "conv_bytes": nothing}
    pool_block = blocks.pool_block_bytes * workload.sequences
    conv = family.num_keeping("state", counts) * workload.sequences * conv_state_bits(sizes, workload) // 8
    parts = {
        "kv_bytes": blocks.attention_blocks * pool_block,
        "ssm_bytes": blocks.mamba_blocks * pool_block - conv,
        "conv_bytes": conv,
    }
    first = "kv_bytes" if family.num_keeping("kv", counts) else "ssm_bytes"
    return parts | {first: parts[first] + NULL_BLOCKS * blocks.pool_block_bytes}


def null_block_bytes(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> SizeT:
    """Bytes of the pool that no sequence takes; 0 by plain accounting, and for a model without a cache."""
    blocks = cache_blocks(family, counts, sizes, workload) if workload.accounting == "vllm" else None
    return 0 * sizes["hidden_size"] if blocks is None else NULL_BLOCKS * blocks.pool_block_bytes


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
