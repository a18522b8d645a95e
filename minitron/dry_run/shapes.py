"""Shapes of a run before anything is scored: the teacher, the one that is cut, and the candidates that fit."""

from collections.abc import Callable
from dataclasses import dataclass

from minitron.errors import MinitronError
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.pipeline.sections import search_limits
from minitron.recipe.recipe import Recipe
from minitron.recipe.space import search_space
from minitron.search.solver import NothingFitsError, SearchResult, solve_budget

RANKED_WITHOUT_SCORES = {"largest": "memory", "throughput": "throughput"}

# (pattern, layers that are left, those of them that may go) -> the one that goes.
Choice = Callable[[str, list[int], list[int]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Shapes that a run goes through.

    Attributes:
        teacher: The teacher.
        source: What is scored and cut: the teacher, or what the first of two steps leaves of it.
        student: The candidate that is counted on.
        found: What the search found without scores.
        lightest: Parameters where the heaviest blocks go, of the source or (without a first step) of the student.
        heaviest: Parameters where the lightest blocks go.
        by_scores: Whether scores or measurements choose among the shapes that fit.
        blocks_cut: Whether scores choose which blocks go.
    """

    teacher: HybridShape
    source: HybridShape
    student: HybridShape
    found: SearchResult
    lightest: int
    heaviest: int
    by_scores: bool
    blocks_cut: bool


def plan_shapes(recipe: Recipe, teacher: HybridShape) -> Shapes:
    """The shapes of a run that has passed the preflight checks.

    Which blocks go is assumed: of each kind in proportion, as far as quotas allow.

    Raises:
        MinitronError: Nothing fits, whichever blocks go.
    """
    source, ends = teacher, (teacher.params, teacher.params)
    if recipe.depth_first is not None:
        kept = recipe.depth_first.num_hidden_layers
        source = teacher.resized(layers=kept_layers(recipe, teacher, in_proportion, kept))
        ends = _ends(recipe, teacher, kept)
    found = _search(recipe, source)
    best = found.candidates[0]
    if len(best.layers) < source.num_hidden_layers:
        widths = {name: best.shape.sizes[name] for name in source.family.axes if best.shape.sizes[name]}
        ends = _ends(recipe, source.resized(layers=None, **widths), len(best.layers))
    return Shapes(
        teacher=teacher,
        source=source,
        student=best.shape,
        found=found,
        lightest=ends[0],
        heaviest=ends[1],
        by_scores=recipe.search.choose not in RANKED_WITHOUT_SCORES,
        blocks_cut=ends[0] != ends[1],
    )


def kept_layers(recipe: Recipe, shape: HybridShape, choose: Choice, kept: int) -> tuple[int, ...]:
    """Blocks that stay under the recipe's quotas when a rule chooses what goes, one by one.

    Raises:
        MinitronError: The quotas do not allow so few blocks.
    """
    pattern = shape.hybrid_override_pattern
    if not 1 <= kept <= len(pattern):
        raise MinitronError(f"num_hidden_layers must be between 1 and {len(pattern)}, got {kept}")
    quotas = BlockQuotas(at_least=dict.fromkeys(shape.family.kinds_that_keep("kv"), recipe.search.keep_attention))
    if recipe.score.depth.remove:
        quotas = recipe.score.depth.quotas(shape.family)
    layers = list(range(len(pattern)))
    while len(layers) > kept:
        layers.remove(choose(pattern, layers, quotas.removable(pattern, layers, kept)))
    return tuple(layers)


def in_proportion(pattern: str, layers: list[int], removable: list[int]) -> int:
    """Of the kinds that may go, a block of the one that has kept the largest share of its blocks."""
    left = "".join(pattern[layer] for layer in layers)
    return max(removable, key=lambda layer: left.count(pattern[layer]) / pattern.count(pattern[layer]))


def _ends(recipe: Recipe, shape: HybridShape, kept: int) -> tuple[int, int]:
    def by_weight(sign: int) -> Choice:
        return lambda pattern, _, removable: max(removable, key=lambda at: sign * shape.block_params(pattern[at]))

    lightest, heaviest = (kept_layers(recipe, shape, by_weight(sign), kept) for sign in (1, -1))
    return shape.resized(layers=lightest).params, shape.resized(layers=heaviest).params


def _search(recipe: Recipe, source: HybridShape) -> SearchResult:
    section, workload, limits = recipe.search, recipe.budget.workload, search_limits(recipe)
    rank_by = RANKED_WITHOUT_SCORES.get(section.choose, "memory")

    def solve(choose: Choice) -> SearchResult:
        space = search_space(section, source, lambda kept: kept_layers(recipe, source, choose, kept))
        return solve_budget(space, workload, limits, top_k=section.top_k, rank_by=rank_by)

    try:
        return solve(in_proportion)
    except NothingFitsError:
        if section.num_hidden_layers is None:
            raise

        def heaviest_first(pattern: str, layers: list[int], removable: list[int]) -> int:
            return max(removable, key=lambda layer: source.block_params(pattern[layer]))

        return solve(heaviest_first)
