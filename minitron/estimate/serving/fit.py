"""Whether a shape fits a budget, with the largest context and the largest number of sequences that fit."""

from dataclasses import dataclass

from minitron.estimate.serving.memory import MemoryBytes, memory_bytes
from minitron.estimate.serving.vllm_cache import (
    NULL_BLOCKS,
    CacheBlocks,
    cache_blocks,
    check_served,
    largest_context,
    workspace_range,
)
from minitron.estimate.serving.workload import Workload
from minitron.models.shape import HybridShape

# By plain accounting nothing of an engine is counted, beyond the share of the memory that is left unused: a model that
# leaves less than this share of the budget is called tight.
TIGHT_SHARE = 0.05
FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """Whether a shape fits a budget.

    Attributes:
        params: Exact parameters.
        memory: Bytes by what they hold; where the workspace is estimated, its high end.
        workspace_low_bytes: The low end of an estimated workspace, else the workspace.
        budget_bytes: Bytes allowed.
        max_context_tokens: Largest context at this number of sequences; 0 when not even one token fits, None when
            all else fits and a longer context costs nothing (no attention blocks, or windows alone).
        max_sequences: Largest number of sequences at this context; 0 when not even one fits, None when all
            else fits and a sequence costs nothing (no attention and no recurrent blocks).
        cache_blocks: vLLM's cache blocks; None by plain accounting, or without a cache.
        num_cache_blocks: Blocks of vLLM's pool in what weights and workspace leave, its null block included; None
            where `cache_blocks` is.
    """

    params: int
    memory: MemoryBytes
    workspace_low_bytes: int
    budget_bytes: int
    max_context_tokens: int | None
    max_sequences: int | None
    cache_blocks: CacheBlocks[int] | None = None
    num_cache_blocks: int | None = None

    @property
    def headroom_bytes(self) -> int:
        """Bytes left, negative when it does not fit."""
        return self.budget_bytes - self.memory.total_bytes

    @property
    def fits(self) -> bool:
        """Whether the total, with the high end of the workspace, is within the budget."""
        return self.headroom_bytes >= 0

    @property
    def verdict(self) -> str:
        """`fits`, `tight`, or `does not fit`.

        Tight is, where the workspace is a range, what fits with its low end alone; else what leaves less than 5% of the
        budget for all that plain accounting leaves out.
        """
        spare = self.memory.workspace_bytes - self.workspace_low_bytes
        if self.fits and (self.cache_blocks is not None or self.headroom_bytes >= TIGHT_SHARE * self.budget_bytes):
            return FITS
        return TIGHT if self.headroom_bytes + spare >= 0 else TOO_LARGE


def fit(shape: HybridShape, workload: Workload, budget_bytes: int, *, weights_bytes: int | None = None) -> FitReport:
    """Compares a shape's bytes with a budget.

    Args:
        shape: The shape.
        workload: What is served.
        budget_bytes: Bytes allowed.
        weights_bytes: Bytes of the weights where they are known; counted when None.

    Raises:
        BudgetError: By vLLM's accounting, vLLM does not serve such a model.
    """
    if workload.accounting == "vllm":
        check_served(shape)
    memory = memory_bytes(shape, workload, weights_bytes=weights_bytes)
    low, _ = workspace_range(shape.family, shape.counts, shape.sizes, workload)
    cache_budget = budget_bytes - memory.weights_bytes - memory.workspace_bytes
    blocks = cache_blocks(shape.family, shape.counts, shape.sizes, workload) if workload.accounting == "vllm" else None
    num_blocks = None
    if blocks is None:
        largest = _largest_plain(shape, workload, cache_budget)
    else:
        num_blocks = max(0, cache_budget // blocks.pool_block_bytes)
        largest = _largest_in_pool(blocks, workload, num_blocks)
    return FitReport(
        params=shape.params,
        memory=memory,
        workspace_low_bytes=int(low),
        budget_bytes=budget_bytes,
        max_context_tokens=largest[0],
        max_sequences=largest[1],
        cache_blocks=blocks,
        num_cache_blocks=num_blocks,
    )


def _largest_plain(shape: HybridShape, workload: Workload, cache_budget: int) -> tuple[int | None, int | None]:
    one = memory_bytes(shape, workload.changed(sequences=1))
    context = _largest_plain_context(shape, workload, cache_budget)
    return context, _largest(cache_budget, one.kv_bytes + one.ssm_bytes + one.conv_bytes)


def _largest_plain_context(shape: HybridShape, workload: Workload, cache_budget: int) -> int | None:
    token = memory_bytes(shape, workload.changed(context_tokens=1))
    left = cache_budget - token.ssm_bytes - token.conv_bytes
    full, windows = (shape.family.num_keeping(what, shape.counts) for what in ("kv", "window"))
    context = _largest(left, token.kv_bytes)
    if not windows or context is None or context < shape.sizes["sliding_window"]:
        return context
    # Beyond the window only the blocks that keep all tokens take more.
    block = token.kv_bytes // (full + windows)
    return _largest(left - windows * block * shape.sizes["sliding_window"], full * block)


def _largest(left: int, one: int) -> int | None:
    if one:
        return max(0, left // one)
    return None if left >= 0 else 0


def _largest_in_pool(blocks: CacheBlocks[int], workload: Workload, num_blocks: int) -> tuple[int | None, int | None]:
    usable = max(0, num_blocks - NULL_BLOCKS)
    context = largest_context(blocks, usable // workload.sequences - blocks.state_blocks)
    return context, min(workload.engine.max_num_seqs, usable // blocks.blocks_per_sequence)
