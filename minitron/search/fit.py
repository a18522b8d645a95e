"""Does it fit: one shape against one budget, with the largest context and number of sequences that would."""

from dataclasses import dataclass, replace

from minitron.hybrid.shape import HybridShape
from minitron.search.memory import MemoryBytes, Workload, memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """Verdict on a shape.

    Attributes:
        params: Exact parameters.
        memory: Bytes by what they hold.
        budget_bytes: Bytes allowed.
        max_context_tokens: Largest context at this number of sequences; 0 when not even one token fits, None when
            the context costs nothing (no attention blocks).
        max_sequences: Largest number of sequences at this context; 0 when not even one fits, None when a sequence
            costs nothing (no attention and no Mamba blocks).
    """

    params: int
    memory: MemoryBytes
    budget_bytes: int
    max_context_tokens: int | None
    max_sequences: int | None

    @property
    def headroom_bytes(self) -> int:
        """Bytes left, negative when it does not fit."""
        return self.budget_bytes - self.memory.total_bytes

    @property
    def fits(self) -> bool:
        """Whether the total is within the budget."""
        return self.headroom_bytes >= 0


def fit(shape: HybridShape, workload: Workload, budget_bytes: int) -> FitReport:
    """Holds a shape's bytes against a budget."""
    memory = memory_bytes(shape, workload)
    per_context = memory_bytes(shape, replace(workload, context_tokens=1))
    kv_per_token = per_context.kv_bytes
    left = budget_bytes - (per_context.total_bytes - kv_per_token)
    one = memory_bytes(shape, replace(workload, sequences=1))
    per_sequence = one.kv_bytes + one.ssm_bytes + one.conv_bytes
    left_for_sequences = budget_bytes - one.weights_bytes - one.workspace_bytes
    return FitReport(
        params=shape.params,
        memory=memory,
        budget_bytes=budget_bytes,
        max_context_tokens=max(0, left // kv_per_token) if kv_per_token else None,
        max_sequences=max(0, left_for_sequences // per_sequence) if per_sequence else None,
    )
