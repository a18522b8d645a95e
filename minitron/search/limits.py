"""Limits on candidates: which shapes of a grid are within them, and the nearest shape when none is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from minitron.errors import BudgetError
from minitron.estimate.devices import Device
from minitron.estimate.serving.memory import memory_bytes, memory_parts
from minitron.estimate.serving.readers import broken_rules, keeps_to_readers
from minitron.estimate.serving.shape_rules import Serving
from minitron.estimate.serving.throughput import predict_tokens_per_second, serving_cost, tokens_per_second
from minitron.estimate.serving.workload import Lengths, Workload
from minitron.models.axes import Indices
from minitron.models.shape import HybridShape
from minitron.search.space import ShapeGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that a candidate must be within.

    Attributes:
        budget_bytes: Largest total of the memory model.
        max_params: Most parameters.
        min_tokens_per_s: Least predicted output tokens a second.
        device: The GPU that throughput is predicted for; None predicts none.
        lengths: Tokens in and out that throughput is predicted for.
        serving: The engines that must take it, and over how many GPUs.
    """

    budget_bytes: int
    max_params: int | None = None
    min_tokens_per_s: float | None = None
    device: Device | None = None
    lengths: Lengths = field(default_factory=Lengths)
    serving: Serving = field(default_factory=Serving)

    def __post_init__(self) -> None:
        if self.min_tokens_per_s is not None and self.device is None:
            raise BudgetError("a least throughput needs a device that it is predicted for")


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedGrid:
    """Bytes, parameters and throughput of the shapes of a grid.

    Attributes:
        total_bytes: [shapes] total of the memory model, exact.
        params: [shapes] exact parameters; None when no limit asks for them.
        tokens_per_s: [shapes] predicted throughput; None when nothing asks for it.
        met: Name of a limit -> [shapes] whether it is met.
        possible: [shapes] whether the family can have such a shape; None where it can have all.
    """

    total_bytes: Indices
    params: Indices | None
    tokens_per_s: npt.NDArray[np.float64] | None
    met: Mapping[str, npt.NDArray[np.bool_]]
    possible: npt.NDArray[np.bool_] | None = None

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """[shapes] whether every limit is met."""
        feasible: npt.NDArray[np.bool_] = np.logical_and.reduce(list(self.met.values()))
        return feasible if self.possible is None else feasible & self.possible


def count_grid(grid: ShapeGrid, workload: Workload, limits: Limits, *, with_throughput: bool = False) -> CountedGrid:
    """Counts the shapes of a grid and compares them with the limits."""
    family = grid.source.family
    parts = memory_parts(family, grid.counts, grid.sizes, workload)
    total_bytes = grid.spread(sum(parts.values()))  # type: ignore[arg-type]
    met = {"memory": total_bytes <= limits.budget_bytes}
    params = speed = None
    if limits.max_params is not None:
        params = grid.spread(family.params(grid.counts, grid.sizes))
        met["params"] = params <= limits.max_params
    if limits.device is not None and (limits.min_tokens_per_s is not None or with_throughput):
        cost = serving_cost(family, grid.counts, grid.sizes, workload, limits.lengths, limits.budget_bytes)
        speed = grid.spread(
            tokens_per_second(cost, limits.device, limits.lengths, weights_dtype=workload.weights_dtype)
        )
        met["throughput"] = speed >= limits.min_tokens_per_s if limits.min_tokens_per_s is not None else speed > 0
    if limits.serving.readers:
        met["readers"] = grid.spread(keeps_to_readers(family.model_type, grid.counts, grid.sizes, limits.serving))
    possible = grid.spread(family.is_possible(grid.cut_sizes, grid.source.sizes))
    return CountedGrid(total_bytes=total_bytes, params=params, tokens_per_s=speed, met=met, possible=possible)


class Nearest:
    """Finds the shape nearest to the limits, to explain why no shape is within them."""

    def __init__(self, workload: Workload, limits: Limits) -> None:
        self._workload, self._limits = workload, limits
        self._num_shapes = 0
        self._num_met: dict[str, int] = {}
        self._best: tuple[float, HybridShape] | None = None
        self._rules: dict[str, None] = {}

    def see(self, grid: ShapeGrid, counted: CountedGrid) -> None:
        """Takes in one grid."""
        self._num_shapes += len(counted.total_bytes)
        for limit, met in counted.met.items():
            self._num_met[limit] = self._num_met.get(limit, 0) + int(met.sum())
        missed = counted.total_bytes / self._limits.budget_bytes
        if counted.params is not None and self._limits.max_params is not None:
            missed = np.maximum(missed, counted.params / self._limits.max_params)
        speed, least = counted.tokens_per_s, self._limits.min_tokens_per_s
        if speed is not None:
            # Where not one sequence fits, any that is faster is nearer, and else what is smaller.
            slower = np.where(speed > 0, (least or 0) / np.maximum(speed, 1e-9), 1e9 * missed)
            missed = np.maximum(missed, slower)
        if "readers" in counted.met:
            # A shape that no reader refuses is nearer than any other.
            missed = np.where(counted.met["readers"], missed, 1e12 * missed)
        if counted.possible is not None:
            missed = np.where(counted.possible, missed, np.inf)
            if not counted.possible.any():
                family = grid.source.family
                self._rules |= dict.fromkeys(str(rule) for rule in family.multiples)
                self._rules |= dict.fromkeys(
                    f"{axis} a multiple of {owner}, with at most as many of each"
                    for owner, axis in family.owners.items()
                )
                return
        index = int(np.argmin(missed))
        if self._best is None or missed[index] < self._best[0]:
            self._best = (float(missed[index]), grid.shape_at(index))

    def explain(self) -> str:
        """One line: which limit binds, by how much, and the nearest shape and budget."""
        if self._best is None:
            rules = " and ".join(self._rules)
            raise BudgetError(f"a shape must have {rules}, none of the search space's {self._num_shapes} has")
        shape, limits = self._best[1], self._limits
        memory = memory_bytes(shape, self._workload)
        lacks = []
        if memory.total_bytes > limits.budget_bytes:
            lacks.append(
                f"needs {memory.total_bytes:,}, {memory.total_bytes - limits.budget_bytes:,} more: weights "
                f"{memory.weights_bytes:,}, KV cache {memory.kv_bytes:,}, Mamba state "
                f"{memory.ssm_bytes + memory.conv_bytes:,}, workspace {memory.workspace_bytes:,}"
            )
        if limits.max_params is not None and shape.params > limits.max_params:
            lacks.append(f"has {shape.params:,} parameters, {shape.params - limits.max_params:,} too many")
        if limits.device is not None and "throughput" in self._num_met:
            speed = predict_tokens_per_second(shape, self._workload, limits.device, limits.lengths, limits.budget_bytes)
            tokens = limits.lengths.input_tokens + limits.lengths.output_tokens
            if speed == 0:
                lacks.append(f"leaves no room for one sequence of {tokens:,} tokens")
            elif speed < (limits.min_tokens_per_s or 0):
                lacks.append(f"gives {speed:.1f} tokens/s, {(limits.min_tokens_per_s or 0) - speed:.1f} too few")
        for reader, rule in broken_rules(shape, limits.serving):
            states, found = rule.states(shape.sizes, limits.serving), rule.found(shape, limits.serving)
            lacks.append(f"is refused by {reader}, for which {rule.key} must {states}, got {found}")
        binding = [limit for limit, count in self._num_met.items() if not count] or list(self._num_met)
        met = (
            ""
            if len(self._num_met) == 1
            else "; alone, " + ", ".join(f"{limit} is met by {count:,}" for limit, count in self._num_met.items())
        )
        return (
            f"the budget must hold at least one of the {self._num_shapes} shapes of the search space, got "
            f"{limits.budget_bytes:,} bytes; what binds is {' with '.join(binding)}{met}; the nearest "
            f"({_describe(shape)}) {' and '.join(lacks)}"
        )


def _describe(shape: HybridShape) -> str:
    sizes = ", ".join(f"{axis} {shape.sizes[axis]}" for axis in shape.family.axes)
    return f"{shape.num_hidden_layers} blocks, {sizes}"
