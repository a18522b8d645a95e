"""From a caller's constraints to a shape: an exact one, or the best within a memory and a number of parameters."""

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from minitron.errors import MinitronError
from minitron.estimate.devices import usable_bytes
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.importance.retained import retained_shares
from minitron.importance.scores import Scores
from minitron.importance.selection import top_blocks
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.search.limits import Limits
from minitron.search.solver import Candidate, solve_budget
from minitron.search.space import SearchSpace, size_range
from minitron.units import gib_to_bytes

LAYERS = "num_hidden_layers"
# ModelOpt's names of dims where they differ and mean one dim alone.
ALIASES = {"ffn_hidden_size": "intermediate_size", "num_layers": LAYERS}
CONSTRAINTS = ("export_config", "memory_gib", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What a memory in GiB is to hold, and how far the search may go.

    Attributes:
        context_tokens: Tokens that each sequence holds; needed with a memory.
        sequences: Sequences held at once.
        weights_dtype: Precision of the weights.
        kv_dtype: Precision of the attention cache.
        ssm_dtype: Precision of the Mamba state.
        conv_dtype: Precision of the convolution state.
        workspace_gib: GiB for activations and logits; None leaves it to the accounting.
        accounting: plain or vllm.
        utilization: Share of the memory that may be used; the accounting's default when None.
        reserved_gib: GiB set aside for others.
        max_width_pruning: Largest share of any width that may go (ModelOpt's name and default).
        max_depth_pruning: Largest share of the blocks that may go (ModelOpt's name and default).
        hparams_to_skip: Dims that stay (ModelOpt's name).
        steps: Dim -> its sizes are multiples of this; those that kernels like where it is not named.
    """

    context_tokens: int | None = None
    sequences: int = 1
    weights_dtype: str = "bf16"
    kv_dtype: str = "bf16"
    ssm_dtype: str = "fp32"
    conv_dtype: str = "bf16"
    workspace_gib: float | None = None
    accounting: str = "plain"
    utilization: float | None = None
    reserved_gib: float = 0.0
    max_width_pruning: float = 0.40
    max_depth_pruning: float = 0.20
    hparams_to_skip: tuple[str, ...] = ()
    steps: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_width_pruning", "max_depth_pruning"):
            if not 0 <= getattr(self, name) < 1:
                raise MinitronError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    @property
    def workload(self) -> Workload:
        """The workload as the memory model takes it."""
        return Workload(
            context_tokens=self.context_tokens or 1,
            sequences=self.sequences,
            weights_dtype=self.weights_dtype,
            kv_dtype=self.kv_dtype,
            ssm_dtype=self.ssm_dtype,
            conv_dtype=self.conv_dtype,
            workspace_bytes=None if self.workspace_gib is None else gib_to_bytes(self.workspace_gib),
            accounting=self.accounting,
        )


def check_constraints(constraints: Mapping[str, Any], source: HybridShape, settings: BudgetSettings) -> None:
    """Refuses constraints that cannot be meant, before anything is calibrated.

    Raises:
        MinitronError: A key is unknown, `export_config` is not alone, a number is not positive, or a memory comes
            without a context.
    """
    check_keys(constraints, CONSTRAINTS, "a constraint")
    if not constraints:
        raise MinitronError(f"constraints must hold one of {', '.join(CONSTRAINTS)}, got none")
    if "export_config" in constraints:
        if len(constraints) > 1:
            raise MinitronError(f"export_config must be the only constraint, got {', '.join(constraints)}")
        given = constraints["export_config"]
        if not isinstance(given, Mapping):
            raise MinitronError(f"export_config must be a dict of dims, got {given!r}")
        sizes = _sizes(given, source)
        layers = sizes.pop(LAYERS, source.num_hidden_layers)
        if not isinstance(layers, int) or not 1 <= layers <= source.num_hidden_layers:
            raise MinitronError(f"{LAYERS} must be between 1 and {source.num_hidden_layers}, got {layers!r}")
        for axis, size in source.resized(**sizes).sizes.items():
            if size > source.sizes[axis]:
                raise MinitronError(f"{axis} must not exceed the model's {source.sizes[axis]}, got {size}")
        return
    if "memory_gib" in constraints:
        _positive(constraints["memory_gib"], "memory_gib")
        if settings.context_tokens is None:
            raise MinitronError("memory_gib needs config['context_tokens'], the tokens that a sequence holds")
    if "params" in constraints:
        _max_params(constraints["params"], source)
    allowed = (*source.family.axes, *ALIASES, LAYERS)
    check_keys(settings.hparams_to_skip, allowed, "a dim of hparams_to_skip")
    check_keys(settings.steps, allowed, "a dim of steps")


def choose_shape(
    constraints: Mapping[str, Any], source: HybridShape, scores: Scores, settings: BudgetSettings
) -> Candidate:
    """The shape that is asked for, or of those within the limits the one that keeps most importance.

    Raises:
        NothingFitsError: No shape is within the limits.
        MinitronError: The constraints cannot be met in another way.
    """
    check_constraints(constraints, source, settings)
    if "export_config" in constraints:
        sizes = _sizes(constraints["export_config"], source)
        layers = _kept(scores, source, sizes.pop(LAYERS, source.num_hidden_layers))
        shape = source.resized(layers=layers, **sizes)
        return Candidate(layers=layers, shape=shape, memory=memory_bytes(shape, settings.workload))
    limits = Limits(
        budget_bytes=_budget_bytes(constraints, source, settings),
        max_params=_max_params(constraints["params"], source) if "params" in constraints else None,
    )
    result = solve_budget(
        _space(source, scores, settings),
        settings.workload,
        limits,
        top_k=1,
        rank_by="importance",
        shares=lambda layers: retained_shares(scores, source, layers),
    )
    return result.candidates[0]


def check_keys(found: Collection[str], allowed: Collection[str], what: str) -> None:
    """Refuses names that are not allowed.

    Raises:
        MinitronError: There is one; the message gives a near match, or all names.
    """
    for name in found:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            mend = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(sorted(allowed))}"
            raise MinitronError(f"{what} must be known, got {name!r}; {mend}")


def _sizes(given: Mapping[str, Any], source: HybridShape) -> dict[str, Any]:
    check_keys(given, (*source.family.axes, LAYERS, *ALIASES), "a dim of export_config")
    sizes: dict[str, Any] = {}
    for name, size in given.items():
        dim = ALIASES.get(name, name)
        if dim in sizes:
            raise MinitronError(f"export_config must give {dim} once, got it under two names")
        sizes[dim] = size
    return sizes


def _kept(scores: Scores, source: HybridShape, count: int) -> tuple[int, ...]:
    return top_blocks(scores.depth, source.hybrid_override_pattern, count, quotas=_quotas(source))


def _quotas(source: HybridShape) -> BlockQuotas:
    return BlockQuotas(at_least={kind: 1 for kind, count in source.counts.items() if count})


def _space(source: HybridShape, scores: Scores, settings: BudgetSettings) -> SearchSpace:
    skipped = {ALIASES.get(name, name) for name in settings.hparams_to_skip}
    steps = {ALIASES.get(name, name): step for name, step in settings.steps.items()}
    blocks = source.num_hidden_layers
    fewest = max(math.ceil((1 - settings.max_depth_pruning) * blocks), len(_quotas(source).at_least))
    depths = range(blocks, (blocks if LAYERS in skipped else fewest) - 1, -steps.get(LAYERS, 1))
    sizes = {
        axis.name: size_range(
            source,
            axis.name,
            low=max(
                1 if axis.at_least is None else axis.at_least(source.sizes),
                math.ceil((1 - settings.max_width_pruning) * source.sizes[axis.name]),
            ),
            step=steps.get(axis.name),
        )
        for axis in source.family.axes.values()
        if axis.name not in skipped and (axis.block is None or source.count(axis.block))
    }
    return SearchSpace(source=source, layers=tuple(_kept(scores, source, depth) for depth in depths), sizes=sizes)


def _budget_bytes(constraints: Mapping[str, Any], source: HybridShape, settings: BudgetSettings) -> int:
    if "memory_gib" not in constraints:
        return memory_bytes(source, settings.workload).total_bytes
    return usable_bytes(
        gib_to_bytes(constraints["memory_gib"]),
        utilization=settings.utilization,
        reserved_gib=settings.reserved_gib,
        accounting=settings.accounting,
    )


def _max_params(given: Any, source: HybridShape) -> int:
    if isinstance(given, str) and given.endswith("%"):  # ModelOpt's way to say a share of the original
        try:
            share = float(given.removesuffix("%"))
        except ValueError as error:
            raise MinitronError(f"params must be a number or a percentage such as '60%', got {given!r}") from error
        return int(_positive(share, "params") / 100 * source.params)
    return int(_positive(given, "params"))


def _positive(given: Any, name: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < math.inf:
        raise MinitronError(f"{name} must be a positive number, got {given!r}")
    return float(given)
