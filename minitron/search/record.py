"""Records of a search: its candidates, as in `candidates.json`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from minitron.estimate.serving.memory import MemoryBytes
from minitron.models.shape import HybridShape
from minitron.search.pareto import pareto_front


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEstimate:
    """Sizes and predicted speed of a model at the budget's workload.

    Attributes:
        params: Parameters.
        memory: Bytes.
        tokens_per_s: Predicted output tokens a second; None without a device.
    """

    params: int
    memory: MemoryBytes
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out loss and KL to the teacher, nats a token."""

    loss: float
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """KL to the teacher after a round of a tournament; None when the candidate's training diverged."""

    tokens: int
    kl: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """A candidate, with predictions and measurements.

    Attributes:
        layers: Kept blocks, as ascending indices of the source's.
        shape: The shape that is left.
        params: Its parameters.
        memory: Its bytes.
        tokens_per_s: Predicted output tokens a second; None without a device.
        retained: Share of the importance that it keeps.
        zero_shot: Loss and KL right after pruning; None when not measured.
        repaired: The same after closed-form repair; None when not measured.
        rounds: KL after each round of a tournament that it was in.
        curve: (tokens, training loss) of all rounds.
        on_front: Whether no other candidate is smaller, better and (where predicted) faster.
    """

    layers: tuple[int, ...]
    shape: HybridShape
    params: int
    memory: MemoryBytes
    tokens_per_s: float | None
    retained: float | None
    zero_shot: HeldOut | None = None
    repaired: HeldOut | None = None
    rounds: tuple[Round, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    on_front: bool = False

    @property
    def loss(self) -> float:
        """What all candidates are compared by, lower is better: KL after the first round, else what is known."""
        if self.rounds:
            return inf if self.rounds[0].kl is None else self.rounds[0].kl
        measured = self.repaired or self.zero_shot
        if measured is not None:
            return measured.kl
        return -(self.retained or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord:
    """A search's candidates, the chosen one first, and the models that they were pruned from.

    Attributes:
        chosen_by: The recipe's `search.choose`.
        budget_bytes: Bytes that may be used.
        device: The GPU that speeds are predicted for.
        num_shapes: Shapes that were counted.
        num_feasible: Shapes within the limits.
        teacher: The teacher.
        source: The model that is pruned: the teacher, or the result of the depth stages.
        candidates: Best first.
    """

    chosen_by: str
    budget_bytes: int
    device: str | None
    num_shapes: int
    num_feasible: int
    teacher: ModelEstimate
    source: ModelEstimate
    candidates: tuple[CandidateRecord, ...]


def mark_front(candidates: Sequence[CandidateRecord]) -> tuple[CandidateRecord, ...]:
    """The candidates, those on the Pareto front of bytes, loss and speed marked as such."""
    costs = [[each.memory.total_bytes, each.loss, -(each.tokens_per_s or 0)] for each in candidates]
    return tuple(replace(each, on_front=on) for each, on in zip(candidates, pareto_front(costs), strict=True))
