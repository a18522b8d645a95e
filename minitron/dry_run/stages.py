"""The stages of a run in order: what each does, and what those that train nothing cost. Estimates."""

from dataclasses import dataclass
from typing import Any

from minitron.dry_run.costs import cost_of
from minitron.dry_run.shapes import Shapes
from minitron.dry_run.training import rounds_tokens
from minitron.estimate.devices import find_device
from minitron.estimate.training.memory import OVERHEAD_BYTES, training_verdict
from minitron.estimate.training.operations import forward_operations, head_params, training_operations
from minitron.models.shape import HybridShape
from minitron.recipe.devices import DevicesSection
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage of a run.

    Attributes:
        name: Its name, as `--to` and `--from` take it.
        does: What it does.
        shared: Whether several processes may run it.
        operations: What it computes beside training; 0 where that does not matter.
        holds: What of models it holds at once on the device; empty where that is little.
        held_bytes: Their weights.
    """

    name: str
    does: str
    shared: bool = False
    operations: int = 0
    holds: str = ""
    held_bytes: int = 0


def plan_stages(recipe: Recipe, shapes: Shapes) -> tuple[PlannedStage, ...]:
    """The stages that a recipe has, in order."""
    found: list[PlannedStage | None] = [
        _correct(recipe),
        _depth(recipe, shapes.teacher),
        _depth_distill(recipe),
        _score(recipe, shapes.source),
        _search(recipe, shapes),
        _prune(recipe, shapes),
        _cache(recipe),
        PlannedStage(name="distill", does=_distillation(recipe.distill), shared=True),
        _evaluate(recipe, shapes),
        PlannedStage(name="report", does="table and picture"),
    ]
    return tuple(stage for stage in found if stage is not None)


def describe_stage(stage: PlannedStage, devices: DevicesSection | None) -> dict[str, Any]:
    """A stage as JSON holds it; what takes one process takes one device."""
    cost = cost_of(stage.operations, devices, processes=1)
    holds = None
    if stage.held_bytes and devices is not None:
        total, visible = stage.held_bytes + OVERHEAD_BYTES, find_device(devices.gpu).visible_bytes
        verdict = training_verdict(total, visible)
        holds = {"what": stage.holds, "total_bytes": total, "device_bytes": visible, "verdict": verdict}
    return {
        "name": stage.name,
        "does": stage.does,
        "processes": "any" if stage.shared else "one",
        "operations": stage.operations,
        "holds": holds,
        **cost,
    }


def _correct(recipe: Recipe) -> PlannedStage | None:
    if recipe.correct_teacher is None:
        return None
    return PlannedStage(name="correct", does="fine-tune the teacher on the distillation's text", shared=True)


def _depth(recipe: Recipe, teacher: HybridShape) -> PlannedStage | None:
    if recipe.depth_first is None:
        return None
    blocks, kept = teacher.num_hidden_layers, recipe.depth_first.num_hidden_layers
    depth = recipe.score.depth
    how = f"{depth.scorer}, greedy" if depth.remove else depth.scorer
    attention = "" if depth.keep_attention is None else f", {depth.keep_attention} attention blocks stay"
    return PlannedStage(
        name="depth",
        does=f"score {blocks} blocks by {how}; keep {kept}{attention}",
        operations=_scoring(recipe, teacher, with_depth=True),
        **_whole(recipe.score.layerwise, "the teacher", teacher),
    )


def _depth_distill(recipe: Recipe) -> PlannedStage | None:
    if recipe.depth_first is None:
        return None
    return PlannedStage(name="depth_distill", does=_distillation(recipe.depth_first.distill), shared=True)


def _score(recipe: Recipe, source: HybridShape) -> PlannedStage:
    section = recipe.score
    width = section.width
    scorers = sorted({width.hidden_size, width.intermediate_size, width.mamba, width.num_attention_heads})
    where = ", a block in memory at a time" if section.layerwise else ""
    with_depth = recipe.depth_first is None
    return PlannedStage(
        name="score",
        does=f"{section.samples:,} samples of {section.seq_len:,} tokens, {' and '.join(scorers)}{where}",
        operations=_scoring(recipe, source, with_depth=with_depth),
        **_whole(section.layerwise, "what is scored", source),
    )


def _whole(layerwise: bool, what: str, *shapes: HybridShape) -> dict[str, Any]:
    """Models that are held in fp32, as stages outside training load them."""
    if layerwise:
        return {}
    return {"holds": f"{what} in fp32", "held_bytes": 4 * sum(shape.params for shape in shapes)}


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


def _search(recipe: Recipe, shapes: Shapes) -> PlannedStage:
    section = recipe.search
    number = shapes.found.num_shapes
    does = f"{number:,} shape{'' if number == 1 else 's'} against the budget, chosen by {section.choose}"
    if section.choose not in ("zero_shot", "tournament"):
        return PlannedStage(name="search", does=does)
    first, rounds = recipe.distill.curriculum[0], section.tournament
    candidates = min(section.shortlist, shapes.found.num_feasible)
    both = forward_operations(shapes.student, first.seq_len) + forward_operations(shapes.teacher, first.seq_len)
    operations = candidates * rounds.sequences * first.seq_len * both
    if section.choose == "tournament":
        operations += rounds_tokens(recipe, candidates) * training_operations(
            shapes.student, first.seq_len, teacher=shapes.teacher, checkpointing=first.gradient_checkpointing
        )
    models = {shape.params: shape for shape in (shapes.teacher, shapes.source)}
    return PlannedStage(
        name="search",
        does=f"{does} of {candidates}",
        operations=operations,
        **_whole(False, "the teacher, what is cut and a candidate", *models.values(), shapes.student),
    )


def _prune(recipe: Recipe, shapes: Shapes) -> PlannedStage:
    extra = [name for name in ("compensate", "repair") if getattr(recipe.prune, name) is not None]
    layerwise = recipe.prune.repair is None or recipe.prune.repair.layerwise
    return PlannedStage(
        name="prune",
        does=", ".join(["cut to the chosen shape", *extra]),
        **_whole(layerwise, "what is cut and the student", shapes.source, shapes.student),
    )


def _cache(recipe: Recipe) -> PlannedStage | None:
    teacher = recipe.distill.teacher
    if teacher.mode != "cached":
        return None
    where = ", a block in memory at a time" if teacher.layerwise else ""
    return PlannedStage(name="cache", does=f"write the teacher's best {teacher.top_k} tokens{where}", shared=True)


def _distillation(section: DistillSection) -> str:
    loss = section.loss.divergence + (" and cross-entropy" if section.loss.cross_entropy else "")
    teacher = {"online": "an online", "layerwise": "a layerwise", "cached": "a cached"}[section.teacher.mode]
    stages = f", {len(section.phases)} stages" if section.phases else ""
    merged = f", the last {len(section.merge)} merged" if len(section.merge) > 1 else ""
    return f"{loss} from {teacher} teacher{stages}{merged}"


def _evaluate(recipe: Recipe, shapes: Shapes) -> PlannedStage:
    section = recipe.evaluate
    teacher, student = (forward_operations(shape, section.seq_len) for shape in (shapes.teacher, shapes.student))
    operations = section.sequences * section.seq_len * (4 * teacher + 2 * student)
    task = "" if section.task is None else f", {section.task.name}"
    return PlannedStage(
        name="evaluate",
        does=f"loss and KL on {section.sequences:,} held-out blocks{task}",
        operations=operations,
        **_whole(False, "the teacher, and it again as what is measured,", shapes.teacher, shapes.teacher),
    )
