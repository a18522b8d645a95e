"""Sizes of the models of a run at the budget's workload."""

from dataclasses import asdict, dataclass

from minitron.artifacts.json_files import JsonObject
from minitron.dry_run.shapes import Shapes
from minitron.estimate.serving.memory import MemoryBytes, memory_bytes
from minitron.models.shape import HybridShape
from minitron.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """A model's size.

    Attributes:
        shape: Its shape.
        blocks: Kind of block -> how many it has.
        params: Parameters.
        memory: Bytes at the budget's workload.
    """

    shape: HybridShape
    blocks: dict[str, int]
    params: int
    memory: MemoryBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSize(ModelSize):
    """A candidate's size, and its predicted output tokens a second; None without a device."""

    tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the models of a run.

    Attributes:
        teacher: The teacher.
        source: What is scored and cut: the teacher, or what the depth stages leave of it.
        student: The candidate that is counted on.
        params_by_blocks: Parameters where the heaviest and where the lightest blocks go.
        budget_bytes: The budget.
        context_tokens: Tokens of a sequence that is served.
        sequences: Sequences that are served at once.
        num_shapes: Shapes of the search space.
        num_feasible: Those within the limits.
        chosen_by: The recipe's `search.choose`.
        depends_on_scores: Whether scores choose among those within the limits.
        candidates: The first candidates without scores.
    """

    teacher: ModelSize
    source: ModelSize
    student: ModelSize
    params_by_blocks: tuple[int, int]
    budget_bytes: int
    context_tokens: int
    sequences: int
    num_shapes: int
    num_feasible: int
    chosen_by: str
    depends_on_scores: bool
    candidates: tuple[CandidateSize, ...]

    def to_json(self) -> JsonObject:
        """As JSON."""
        return asdict(self)


def measure_sizes(recipe: Recipe, shapes: Shapes) -> Sizes:
    """Parameters and bytes of a run's shapes."""

    def size(shape: HybridShape) -> ModelSize:
        return ModelSize(
            shape=shape, blocks=_blocks(shape), params=shape.params, memory=memory_bytes(shape, recipe.budget.workload)
        )

    return Sizes(
        teacher=size(shapes.teacher),
        source=size(shapes.source),
        student=size(shapes.student),
        params_by_blocks=(shapes.lightest, shapes.heaviest),
        budget_bytes=recipe.budget.limits.budget_bytes,
        context_tokens=recipe.budget.context_tokens,
        sequences=recipe.budget.sequences,
        num_shapes=shapes.found.num_shapes,
        num_feasible=shapes.found.num_feasible,
        chosen_by=recipe.search.choose,
        depends_on_scores=shapes.by_scores and shapes.found.num_feasible > 1,
        candidates=tuple(
            CandidateSize(
                shape=each.shape,
                blocks=_blocks(each.shape),
                params=each.shape.params,
                memory=each.memory,
                tokens_per_s=each.tokens_per_s,
            )
            for each in shapes.found.candidates
        ),
    )


def _blocks(shape: HybridShape) -> dict[str, int]:
    return {kind: count for kind, count in shape.counts.items() if count}
