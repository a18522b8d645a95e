"""What the stages of a run do beside training, in words, operations and models that they hold. Estimates."""

from collections.abc import Callable
from dataclasses import dataclass

from minitron.dry_run.measuring import measuring_operations
from minitron.dry_run.shapes import Shapes
from minitron.dtypes import dtype_bytes
from minitron.estimate.training.operations import forward_operations, head_params
from minitron.models.shape import HybridShape
from minitron.pipeline.fingerprints import RANK_BY
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe
from minitron.settings import AUTO_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """What a stage does beside training.

    Attributes:
        does: What it does, for a person.
        operations: What it computes; 0 where that does not matter.
        models: The models that it holds at once on the device; empty where that is little.
        weights_bytes: Their weights.
        most_processes: Most processes of a launch that it can be shared out to; None where that is any number.
    """

    does: str
    operations: int = 0
    models: str = ""
    weights_bytes: int = 0
    most_processes: int | None = None


def _depth(recipe: Recipe, shapes: Shapes) -> StageWork:
    assert recipe.depth_first is not None
    teacher, depth = shapes.teacher, recipe.score.depth
    how = f"{depth.scorer}, greedy" if depth.remove else depth.scorer
    attention = "" if depth.keep_attention is None else f", {depth.keep_attention} attention blocks stay"
    kept = recipe.depth_first.num_hidden_layers
    models, weights_bytes = _whole(recipe.score.layerwise, "the teacher", teacher)
    return StageWork(
        does=f"score {teacher.num_hidden_layers} blocks by {how}; keep {kept}{attention}",
        operations=_scoring(recipe, teacher, with_depth=True),
        models=models,
        weights_bytes=weights_bytes,
    )


def _depth_distill(recipe: Recipe, shapes: Shapes) -> StageWork:
    assert recipe.depth_first is not None
    return StageWork(does=_distillation(recipe.depth_first.distill))


def _score(recipe: Recipe, shapes: Shapes) -> StageWork:
    section = recipe.score
    scorers = " and ".join(sorted(set(section.width.scorers.values()))) or "no widths"
    where = ", a block in memory at a time" if section.layerwise else ""
    models, weights_bytes = _whole(section.layerwise, "what is scored", shapes.source)
    return StageWork(
        does=f"{section.samples:,} samples of {section.seq_len:,} tokens, {scorers}{where}",
        operations=_scoring(recipe, shapes.source, with_depth=recipe.depth_first is None),
        models=models,
        weights_bytes=weights_bytes,
    )


def _whole(layerwise: bool, what: str, *shapes: HybridShape, dtype: str = "fp32") -> tuple[str, int]:
    """Models that are held whole, in fp32 where stages outside training load them, and their bytes."""
    params = sum(shape.params for shape in shapes)
    return ("", 0) if layerwise else (f"{what} in {dtype}", dtype_bytes(dtype) * params)


def _scoring(recipe: Recipe, shape: HybridShape, *, with_depth: bool) -> int:
    section = recipe.score
    forward = section.samples * section.seq_len * forward_operations(shape, section.seq_len)
    if not with_depth or section.depth.scorer == "block_influence":
        return forward
    blocks, removed = shape.num_hidden_layers, section.depth.remove
    sweeps = sum(blocks - gone for gone in range(removed)) if removed else blocks
    # What comes before a block that is bypassed is not computed again: half of the blocks in the mean.
    whole = forward_operations(shape, section.seq_len)
    head = 2 * head_params(shape)
    samples = min(section.samples, section.depth.samples or section.samples)
    return forward + sweeps * samples * section.seq_len * ((whole - head) // 2 + head)


def _search(recipe: Recipe, shapes: Shapes) -> StageWork:
    section = recipe.search
    number = shapes.found.num_shapes
    does = f"{number:,} shape{'' if number == 1 else 's'} against the budget, chosen by {section.choose}"
    if section.choose in RANK_BY:
        return StageWork(does=does)
    candidates = min(section.shortlist, shapes.found.num_feasible)
    cut = {shape.params: shape for shape in (shapes.teacher, shapes.source)}.values()
    models, weights_bytes = _whole(False, "the teacher, what is cut and a candidate", *cut, shapes.student)
    processes = min(section.processes, candidates)
    several = f", in {processes} processes" if processes > 1 else ""
    return StageWork(
        does=f"{does} of {candidates}{several}",
        operations=measuring_operations(recipe, shapes, candidates),
        models=models,
        weights_bytes=processes * weights_bytes,
        # A tournament's candidates are trained by all processes together.
        most_processes=None if section.choose == "tournament" else candidates,
    )


def _prune(recipe: Recipe, shapes: Shapes) -> StageWork:
    extra = [name for name in ("compensate", "block_widths", "repair") if getattr(recipe.prune, name) is not None]
    layerwise = recipe.prune.repair is None or recipe.prune.repair.layerwise
    models, weights_bytes = _whole(layerwise, "what is cut and the student", shapes.source, shapes.student)
    extra = [name.replace("_", " ") for name in extra]
    return StageWork(does=", ".join(["cut to the chosen shape", *extra]), models=models, weights_bytes=weights_bytes)


def _cache(recipe: Recipe, shapes: Shapes) -> StageWork:
    teacher = recipe.distill.teacher
    where = ", a block in memory at a time" if teacher.layerwise else ""
    return StageWork(does=f"write the teacher's best {teacher.top_k} tokens{where}")


def _distill(recipe: Recipe, shapes: Shapes) -> StageWork:
    return StageWork(does=_distillation(recipe.distill))


def _distillation(section: DistillSection) -> str:
    loss = section.loss.divergence + (" and cross-entropy" if section.loss.cross_entropy else "")
    teacher = {"online": "an online", "layerwise": "a layerwise", "cached": "a cached"}[section.teacher.mode]
    phases = f", {len(section.phases)} phases" if section.phases else ""
    merged = f", the last {len(section.merge)} merged" if len(section.merge) > 1 else ""
    smaller = f", {len(section.students)} smaller students in it" if section.students else ""
    return f"{loss} from {teacher} teacher{phases}{merged}{smaller}"


def _evaluate(recipe: Recipe, shapes: Shapes) -> StageWork:
    section = recipe.evaluate
    teacher, student = (forward_operations(shape, section.seq_len) for shape in (shapes.teacher, shapes.student))
    # Teacher, pruned and distilled, and the teacher's head again beside each of them.
    operations = section.sequences * section.seq_len * (teacher + 6 * head_params(shapes.teacher) + 2 * student)
    task = "" if section.task is None else f", {section.task.name}"
    where = ", a block in memory at a time" if section.layerwise else ""
    dtype = section.dtype_on("cuda" if recipe.device == AUTO_DEVICE else recipe.device)
    models, weights_bytes = _whole(
        section.layerwise, "the teacher and a student", shapes.teacher, shapes.student, dtype=dtype
    )
    return StageWork(
        does=f"loss and KL on {section.sequences:,} held-out sequences{task}{where}",
        operations=operations,
        models=models,
        weights_bytes=weights_bytes,
    )


# Stages whose work depends on the recipe; of others the pipeline's list says what they do.
WORK: dict[str, Callable[[Recipe, Shapes], StageWork]] = {
    "depth": _depth,
    "depth_distill": _depth_distill,
    "score": _score,
    "search": _search,
    "prune": _prune,
    "cache": _cache,
    "distill": _distill,
    "evaluate": _evaluate,
}
