"""The budget solver: every shape of a small grid, those that fit, largest first."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from minitron.hybrid.shape import HybridShape
from minitron.search.memory import MemoryBytes, Workload, memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A shape that fits the budget.

    Attributes:
        layers: Kept blocks, as ascending indices of the source's.
        shape: The shape that is left.
        memory: Its bytes.
    """

    layers: tuple[int, ...]
    shape: HybridShape
    memory: MemoryBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What the solver found: the candidates kept, largest first, and how many shapes were looked at and fit."""

    candidates: tuple[Candidate, ...]
    num_shapes: int
    num_feasible: int


class NothingFitsError(ValueError):
    """No shape of the search space is within the budget."""


def solve_budget(
    source: HybridShape,
    space: Mapping[str, Sequence[int]],
    workload: Workload,
    budget_bytes: int,
    *,
    kept_layers: Callable[[int], tuple[int, ...]],
    top_k: int,
) -> SearchResult:
    """The `top_k` largest shapes within the budget (the published rule: arXiv 2508.14444).

    Args:
        source: The teacher's shape.
        space: Axis name, or `num_hidden_layers`, -> the sizes to try. What is not named stays as it is.
        workload: What is to be served.
        budget_bytes: Bytes allowed in total.
        kept_layers: Number of blocks -> which blocks stay.
        top_k: How many candidates to keep.

    Raises:
        NothingFitsError: No shape fits; the message names the smallest one and what it lacks.
        ValueError: A size exceeds the teacher's, or breaks a rule of the family.
    """
    for name, sizes in space.items():
        largest = source.num_hidden_layers if name == "num_hidden_layers" else source.sizes[name]
        if not sizes or max(sizes) > largest:
            raise ValueError(f"search.{name} must hold sizes up to the teacher's {largest}, got {list(sizes)}")
    depths = space.get("num_hidden_layers", [source.num_hidden_layers])
    width_names = [name for name in space if name != "num_hidden_layers"]
    candidates = []
    for depth in depths:
        layers = kept_layers(depth)
        for widths in itertools.product(*(space[name] for name in width_names)):
            shape = source.resized(layers=layers, **dict(zip(width_names, widths, strict=True)))
            candidates.append(Candidate(layers=layers, shape=shape, memory=memory_bytes(shape, workload)))
    candidates.sort(key=lambda candidate: candidate.memory.total_bytes, reverse=True)
    feasible = [candidate for candidate in candidates if candidate.memory.total_bytes <= budget_bytes]
    if not feasible:
        raise NothingFitsError(_explain(candidates[-1], budget_bytes, len(candidates)))
    return SearchResult(candidates=tuple(feasible[:top_k]), num_shapes=len(candidates), num_feasible=len(feasible))


def _explain(smallest: Candidate, budget_bytes: int, num_shapes: int) -> str:
    memory, shape = smallest.memory, smallest.shape
    return (
        f"the budget must hold at least one of the {num_shapes} shapes of the search space, got {budget_bytes:,} "
        f"bytes; the smallest ({shape.num_hidden_layers} blocks, hidden_size {shape.hidden_size}, intermediate_size "
        f"{shape.intermediate_size}, mamba_num_heads {shape.mamba_num_heads}) needs {memory.total_bytes:,}, "
        f"{memory.total_bytes - budget_bytes:,} more: weights {memory.weights_bytes:,}, KV cache {memory.kv_bytes:,}, "
        f"Mamba state {memory.ssm_bytes + memory.conv_bytes:,}, workspace {memory.workspace_bytes:,}"
    )
