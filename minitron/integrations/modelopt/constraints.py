"""Chooses a shape by ModelOpt's constraints: an exact one, or the best within a memory and a number of parameters."""

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import Field

from minitron.errors import MinitronError
from minitron.estimate.devices import usable_bytes
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.importance.retained import retained_shares
from minitron.importance.scores import Scores
from minitron.importance.selection import top_blocks
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.recipe.load import make_section
from minitron.search.limits import Limits
from minitron.search.solver import Candidate, solve_budget
from minitron.search.space import SearchSpace, size_range
from minitron.settings import Fraction, NonNegativeFloat, PositiveInt, Settings
from minitron.units import gib_to_bytes

LAYERS = "num_hidden_layers"
# ModelOpt's names of dims where they differ and mean one dim alone.
ALIASES = {"ffn_hidden_size": "intermediate_size", "num_layers": LAYERS}
CONSTRAINTS = ("export_config", "memory_gib", "params")


class SearchSettings(Settings):
    """How far the search may go, and which part of a memory it may use."""

    utilization: Fraction | None = Field(
        default=None, description="Fraction of the memory that may be used; the accounting's default when None."
    )
    reserved_gib: NonNegativeFloat = Field(default=0.0, description="GiB reserved for others.")
    max_width_pruning: float = Field(
        default=0.40, ge=0, lt=1, description="Largest fraction of any width to prune (ModelOpt's name and default)."
    )
    max_depth_pruning: float = Field(
        default=0.20, ge=0, lt=1, description="Largest fraction of the blocks to prune (ModelOpt's name and default)."
    )
    hparams_to_skip: tuple[str, ...] = Field(default=(), description="Dims that stay (ModelOpt's name).")
    steps: dict[str, PositiveInt] = Field(
        default={}, description="Dim -> its sizes are multiples of this; of what kernels are fast at where not named."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """The mode's settings.

    Attributes:
        search: How far the search may go.
        workload: What a memory is to hold; None where no context is given.
    """

    search: SearchSettings
    workload: Workload | None

    @property
    def counted_workload(self) -> Workload:
        """The workload that bytes are counted for: of a single token where none is given."""
        return self.workload or Workload(context_tokens=1)


# Keys of the mode's `config` and their defaults.
DEFAULT_SETTINGS: dict[str, object] = {
    **{name: field.default for name, field in Workload.model_fields.items()},
    "context_tokens": None,
    **{name: field.default for name, field in SearchSettings.model_fields.items()},
}


def read_settings(config: Mapping[str, object]) -> BudgetSettings:
    """The settings in the mode's `config`.

    Raises:
        RecipeError: A value cannot be used; one line for each.
    """
    workload = {name: config[name] for name in Workload.model_fields}
    search = {name: config[name] for name in SearchSettings.model_fields}
    return BudgetSettings(
        search=make_section(SearchSettings, search),
        workload=None if config["context_tokens"] is None else make_section(Workload, workload),
    )


def check_constraints(constraints: Mapping[str, object], source: HybridShape, settings: BudgetSettings) -> None:
    """Checks constraints before anything is calibrated.

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
        sizes = _sizes(constraints["export_config"], source)
        layers = sizes.pop(LAYERS, source.num_hidden_layers)
        if not 1 <= layers <= source.num_hidden_layers:
            raise MinitronError(f"{LAYERS} must be between 1 and {source.num_hidden_layers}, got {layers}")
        for axis, size in source.resized(layers=None, **sizes).sizes.items():
            if size > source.sizes[axis]:
                raise MinitronError(f"{axis} must not exceed the model's {source.sizes[axis]}, got {size}")
        return
    if "memory_gib" in constraints:
        _positive(constraints["memory_gib"], "memory_gib")
        if settings.workload is None:
            raise MinitronError("memory_gib needs config['context_tokens'], the tokens that a sequence holds")
    if "params" in constraints:
        _max_params(constraints["params"], source)
    allowed = (*source.family.axes, *ALIASES, LAYERS)
    check_keys(settings.search.hparams_to_skip, allowed, "a dim of hparams_to_skip")
    check_keys(settings.search.steps, allowed, "a dim of steps")


def choose_shape(
    constraints: Mapping[str, object], source: HybridShape, scores: Scores, settings: BudgetSettings
) -> Candidate:
    """The shape that was asked for, or the one within the limits that keeps the most importance.

    Raises:
        NothingFitsError: No shape is within the limits.
        MinitronError: The constraints cannot be met in another way.
    """
    check_constraints(constraints, source, settings)
    if "export_config" in constraints:
        sizes = _sizes(constraints["export_config"], source)
        layers = _kept(scores, source, sizes.pop(LAYERS, source.num_hidden_layers))
        shape = source.resized(layers=layers, **sizes)
        return Candidate(layers=layers, shape=shape, memory=memory_bytes(shape, settings.counted_workload))
    limits = Limits(
        budget_bytes=_budget_bytes(constraints, source, settings),
        max_params=_max_params(constraints["params"], source) if "params" in constraints else None,
    )
    result = solve_budget(
        _space(source, scores, settings),
        settings.counted_workload,
        limits,
        top_k=1,
        rank_by="importance",
        shares=lambda layers: retained_shares(scores, source, layers),
    )
    return result.candidates[0]


def check_keys(found: Collection[str], allowed: Collection[str], what: str) -> None:
    """Checks that all names are allowed.

    Raises:
        MinitronError: There is one; the message gives a near match, or all names.
    """
    for name in found:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            mend = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(sorted(allowed))}"
            raise MinitronError(f"{what} must be known, got {name!r}; {mend}")


def _sizes(given: object, source: HybridShape) -> dict[str, int]:
    if not isinstance(given, Mapping):
        raise MinitronError(f"export_config must be a dict of dims, got {given!r}")
    check_keys(given, (*source.family.axes, LAYERS, *ALIASES), "a dim of export_config")
    sizes: dict[str, int] = {}
    for name, size in given.items():
        dim = ALIASES.get(str(name), str(name))
        if dim in sizes:
            raise MinitronError(f"export_config must give {dim} once, got it under two names")
        if not isinstance(size, int):
            raise MinitronError(f"{dim} must be a positive whole number, got {size!r}")
        sizes[dim] = size
    return sizes


def _kept(scores: Scores, source: HybridShape, count: int) -> tuple[int, ...]:
    return top_blocks(scores.depth, source.hybrid_override_pattern, count, quotas=_quotas(source))


def _quotas(source: HybridShape) -> BlockQuotas:
    return BlockQuotas(at_least={kind: 1 for kind, count in source.counts.items() if count})


def _space(source: HybridShape, scores: Scores, settings: BudgetSettings) -> SearchSpace:
    skipped = {ALIASES.get(name, name) for name in settings.search.hparams_to_skip}
    steps = {ALIASES.get(name, name): step for name, step in settings.search.steps.items()}
    blocks = source.num_hidden_layers
    fewest = max(math.ceil((1 - settings.search.max_depth_pruning) * blocks), len(_quotas(source).at_least))
    depths = range(blocks, (blocks if LAYERS in skipped else fewest) - 1, -steps.get(LAYERS, 1))
    sizes = {
        axis.name: size_range(
            source,
            axis.name,
            low=max(
                1 if axis.at_least is None else axis.at_least(source.sizes),
                math.ceil((1 - settings.search.max_width_pruning) * source.sizes[axis.name]),
            ),
            step=steps.get(axis.name),
        )
        for axis in source.family.axes.values()
        if axis.name not in skipped and (axis.blocks is None or source.count(axis.blocks))
    }
    return SearchSpace(source=source, layers=tuple(_kept(scores, source, depth) for depth in depths), sizes=sizes)


def _budget_bytes(constraints: Mapping[str, object], source: HybridShape, settings: BudgetSettings) -> int:
    if "memory_gib" not in constraints:
        return memory_bytes(source, settings.counted_workload).total_bytes
    return usable_bytes(
        gib_to_bytes(_positive(constraints["memory_gib"], "memory_gib")),
        utilization=settings.search.utilization,
        reserved_gib=settings.search.reserved_gib,
        accounting=settings.counted_workload.accounting,
    )


def _max_params(given: object, source: HybridShape) -> int:
    if isinstance(given, str) and given.endswith("%"):  # ModelOpt's way to say a share of the original
        try:
            share = float(given.removesuffix("%"))
        except ValueError as error:
            raise MinitronError(f"params must be a number or a percentage such as '60%', got {given!r}") from error
        return int(_positive(share, "params") / 100 * source.params)
    return int(_positive(given, "params"))


def _positive(given: object, name: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < math.inf:
        raise MinitronError(f"{name} must be a positive number, got {given!r}")
    return float(given)
