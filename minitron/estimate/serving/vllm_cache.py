"""The cache as vLLM allocates it: cache blocks of one size that layers of full attention, windows and states share.

Source: vLLM 0.32, platforms/interface.py (block size of hybrid models), model_executor/layers/mamba/mamba_mixer2.py and
v1/kv_cache_interface.py (blocks of a sequence), v1/core/kv_cache_utils.py (groups, pool, null block; 0.33 has groups in
v1/core/kv_cache_planning.py), config/vllm.py (tokens in flight), v1/worker/gpu_worker.py (determine_available_memory);
Apache-2.0. `tests/engines/test_vllm_planner.py` runs these functions of 0.32 and demands the same numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import numpy as np

from minitron.errors import BudgetError
from minitron.estimate.serving.cache import conv_state_bits, kv_token_bits, ssm_state_bits, tokens_within
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import SizeT, dim_size
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape

# Blocks of a sequence in each group of recurrent blocks: its state; with shared prefixes also the state at the last
# block boundary, and one that Mamba-2's prefill (not gated DeltaNet's) exports on its way.
STATES, STATES_WITH_PREFIXES, EXPORTED_STATES = 1, 2, 1
# The pool's first block stands for "no block" in block tables and is never handed out.
NULL_BLOCKS = 1
# Families that vLLM refuses -> the last version that served them (model_executor/models/registry.py).
NO_LONGER_SERVED = {"bamba": "0.23.0"}
# Families whose heads vLLM takes to be hidden_size / num_attention_heads wide, whatever head_dim says
# (model_executor/models/qwen2.py, granitemoehybrid.py): it refuses the weights of others.
HEAD_DIM_IMPLIED = ("qwen2", "granitemoehybrid")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBlocks(Generic[SizeT]):
    """vLLM's cache blocks for one model and workload.

    Attributes:
        block_tokens: Tokens of one cache block of attention; 0 without attention.
        page_bytes: Bytes of one cache block in one layer; recurrent states are padded to it.
        group: Layers that share one block of the pool.
        attention_groups: Groups of layers that keep all tokens, each with a block table of its own.
        window_groups: Groups of layers that keep a window.
        state_groups: Groups of recurrent layers.
        window_tokens: Tokens that a window keeps at most: its own, and those of the steps in flight.
        attention_blocks: Pool blocks of one sequence for its keys and values.
        state_blocks: Pool blocks of one sequence for its recurrent states.
    """

    block_tokens: SizeT
    page_bytes: SizeT
    group: int
    attention_groups: int
    window_groups: int
    state_groups: int
    window_tokens: SizeT
    attention_blocks: SizeT
    state_blocks: int

    @property
    def num_groups(self) -> int:
        """Groups of layers."""
        return self.attention_groups + self.window_groups + self.state_groups

    @property
    def pool_block_bytes(self) -> SizeT:
        """Bytes of one block of the pool."""
        return self.page_bytes * self.group

    @property
    def blocks_per_sequence(self) -> SizeT:
        """Pool blocks that one sequence takes."""
        return self.attention_blocks + self.state_blocks


def cache_blocks(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> CacheBlocks[SizeT] | None:
    """Cache blocks of a model; None for one without attention and recurrent blocks, which keeps nothing.

    Raises:
        BudgetError: vLLM does not serve the family.
    """
    if family.model_type in NO_LONGER_SERVED:
        raise BudgetError(
            f"accounting vllm needs a family that vLLM serves, it dropped {family.model_type} after "
            f"{NO_LONGER_SERVED[family.model_type]}; use accounting plain"
        )
    attention, windows, recurrent = (family.num_keeping(what, counts) for what in ("kv", "window", "state"))
    if not attention and not windows and not recurrent:
        return None
    block, page = _block_and_page(family, counts, sizes, workload)
    group = _group(attention, windows, recurrent)
    attention_groups, window_groups, state_groups = (-(-each // group) for each in (attention, windows, recurrent))
    kept = 0 * block
    blocks = attention_groups * -(-workload.context_tokens // block) if attention else 0 * block
    if windows:
        kept = sizes["sliding_window"] - 1 + workload.engine.tokens_in_flight
        # A window begins inside a block as a rule, so that it reaches into one more.
        blocks = blocks + window_groups * (-(-tokens_within(kept, workload.context_tokens) // block) + 1)
    states = STATES
    if workload.engine.prefix_caching and family.state is not None:
        states = STATES_WITH_PREFIXES + (0 if family.state.delta_rule else EXPORTED_STATES)
    return CacheBlocks(
        block_tokens=block,
        page_bytes=page,
        group=group,
        attention_groups=attention_groups,
        window_groups=window_groups,
        state_groups=state_groups,
        window_tokens=kept,
        attention_blocks=blocks,
        state_blocks=state_groups * states,
    )


def check_served(shape: HybridShape) -> None:
    """Checks that vLLM reads a shape as it is.

    Raises:
        BudgetError: Its code for the family has other heads.
    """
    if shape.model_type in HEAD_DIM_IMPLIED and shape.family.num_keeping("kv", shape.counts):
        implied = shape.hidden_size // shape.num_attention_heads
        if shape.head_dim != implied:
            raise BudgetError(
                f"accounting vllm needs head_dim={implied} in a {shape.model_type}, hidden_size / num_attention_heads, "
                f"which vLLM takes it to be, got {shape.head_dim}; keep hidden_size or use accounting plain"
            )


def largest_context(blocks: CacheBlocks[int], left: int) -> int | None:
    """Tokens of the longest sequence whose keys and values fit into so many blocks; None where all do."""
    full, windows = blocks.attention_groups, blocks.window_groups
    if not full and not windows:
        return None if left >= 0 else 0
    # Up to what a window keeps, its groups take as many blocks as the others, and one more.
    within = (left - windows) // (full + windows)
    window_blocks = -(-blocks.window_tokens // blocks.block_tokens)
    if not windows or within < window_blocks:
        return max(0, within) * blocks.block_tokens
    return (left - windows * (window_blocks + 1)) // full * blocks.block_tokens if full else None


def paged_cache_bytes(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> dict[str, SizeT]:
    """Bytes that the pool needs for all sequences, its null block included.

    What pads a recurrent state to a page is counted with the state, the null block with the attention cache where there
    is one.
    """
    blocks = cache_blocks(family, counts, sizes, workload)
    if blocks is None:
        nothing = 0 * sizes["hidden_size"]
        return {"kv_bytes": nothing, "ssm_bytes": nothing, "conv_bytes": nothing}
    pool_block = blocks.pool_block_bytes * workload.sequences
    conv = family.num_keeping("state", counts) * workload.sequences * conv_state_bits(family, sizes, workload) // 8
    parts = {
        "kv_bytes": blocks.attention_blocks * pool_block,
        "ssm_bytes": blocks.state_blocks * pool_block - conv,
        "conv_bytes": conv,
    }
    first = "kv_bytes" if blocks.attention_groups + blocks.window_groups else "ssm_bytes"
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


def _block_and_page(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> tuple[SizeT, SizeT]:
    """Tokens of a cache block (0 without attention), and its bytes in one layer."""
    attention = family.num_keeping("kv", counts) + family.num_keeping("window", counts)
    token = kv_token_bits(sizes, workload) // 8
    state = (ssm_state_bits(family, sizes, workload) + conv_state_bits(family, sizes, workload)) // 8
    if not attention:
        return 0 * token, state
    # A block holds a recurrent state of the configuration's sizes even where no such block is left, unless attention
    # blocks are all there is: then vLLM takes the model for no hybrid.
    multiples = -(-state // (workload.engine.block_size * token)) if attention < sum(counts.values()) else token * 0
    block = workload.engine.block_size * (multiples + (multiples == 0))
    return block, block * token


def _group(*kinds: int) -> int:
    """Layers of a group, from the numbers of layers of each kind of cache."""
    found = [number for number in kinds if number]
    few, many = min(found), max(found)
    return many if many < 1.5 * few else few
