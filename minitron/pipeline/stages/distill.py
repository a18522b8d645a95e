"""Pruned checkpoint + teacher -> distilled checkpoint and its loss curve, over one stage or a curriculum of several."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.merging.merge import merge_checkpoints
from minitron.distill.loss.hidden_states import HIDDEN_LOSSES
from minitron.distill.training.model import HiddenMatch
from minitron.distill.training.stage import DistillRecord, distill
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.pipeline.provenance import write_about
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, PLAN_FILE, RECORD_FILE, STATE_FOLDER, Folders
from minitron.pipeline.teachers import Taught, open_teachers
from minitron.pipeline.training import (
    load_trained,
    objective_of,
    read_record,
    taught_by,
    train_origin,
    train_settings,
    write_record,
    write_trained,
)
from minitron.prune.plan import load_plan
from minitron.recipe.distill import DistillSection, HiddenSection
from minitron.recipe.recipe import Recipe

STAGES_FOLDER = "stages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a student has of its teacher.

    Attributes:
        layers: The teacher's blocks, in the student's order.
        channels: The teacher's hidden channels; None when all.
    """

    layers: tuple[int, ...]
    channels: tuple[int, ...] | None = None


def kept_by(plans: Sequence[Path]) -> Kept:
    """What is left of a teacher after cuts in order, each given by the file of its plan."""
    layers: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    for plan in map(load_plan, plans):
        layers = tuple(plan.keep.layers) if layers is None else tuple(layers[layer] for layer in plan.keep.layers)
        found = plan.keep.indices.get(("hidden_size", None))
        if found is not None:
            kept = tuple(int(channel) for channel in found)
            channels = kept if channels is None else tuple(channels[channel] for channel in kept)
    assert layers is not None
    return Kept(layers=layers, channels=channels)


def recover(
    recipe: Recipe,
    student: PreTrainedModel,
    template: Checkpoint,
    output: Path,
    *,
    section: DistillSection | None = None,
    taught: Taught | None = None,
    kept: Kept | None = None,
    ranks: Ranks | None = None,
) -> DistillRecord:
    """Distills a student and writes it as a checkpoint like another one; goes on where it was interrupted.

    Students of a curriculum's earlier stages, and all that are merged, stay in `stages/`.

    Args:
        recipe: The recipe.
        student: What is trained first; later stages of a curriculum load what the one before them wrote.
        template: The checkpoint whose form the student has.
        output: Where the student, the record and each stage's students are written.
        section: How to distill; the recipe's section when None.
        taught: Where the teacher's signal comes from; the recipe's teacher when None.
        kept: What the student has of the teacher, where hidden states are matched.
        ranks: The processes that take part.
    """
    section = section or recipe.distill
    taught = taught or Taught(folder=Path(recipe.teacher))
    ranks = ranks or Ranks(recipe.device)
    teachers = open_teachers(recipe, section, taught, ranks)
    records: list[DistillRecord] = []
    written: list[Checkpoint] = []
    for position, (name, stage) in enumerate(zip(section.stage_names, section.curriculum, strict=True)):
        folder = output / STAGES_FOLDER / name
        # All look before the first one goes on, which may move what was found.
        if not ranks.min(int((folder / RECORD_FILE).is_file())):
            if written:
                del student  # before the next one takes as much
                student = load_trained(written[-1], stage, ranks, device=recipe.device)
            sequences_NT, teacher = teachers(position, stage, output / STATE_FOLDER)
            record = distill(
                student,
                teacher,
                sequences_NT,
                train_settings(stage, objective_of(stage.loss), hidden=_hidden_match(stage.loss.hidden, kept)),
                state_folder=output / STATE_FOLDER / name,
                seed=recipe.seed,
                ranks=ranks,
            )
            del teacher
            write_trained(student, record, template, folder, ranks)
            if ranks.is_main:
                shutil.rmtree(output / STATE_FOLDER / name, ignore_errors=True)
        records.append(read_record(folder / RECORD_FILE))
        written.append(_written(folder, output))
    whole = _joined(records)
    ranks.barrier()
    if ranks.is_main:
        _finish(recipe, section, template, written, records, whole, output)
    ranks.barrier()
    return whole


def _written(folder: Path, output: Path) -> Checkpoint:
    # An attempt that was interrupted while it finished may have moved the last student to where the result belongs.
    own = folder / CHECKPOINT_FOLDER
    return open_checkpoint(own if own.exists() else output / CHECKPOINT_FOLDER)


def _hidden_match(section: HiddenSection | None, kept: Kept | None) -> HiddenMatch | None:
    if section is None:
        return None
    if kept is None:
        raise MinitronError("loss.hidden needs a student that was cut from its teacher, this one's plan is not known")
    last = len(kept.layers) - 1
    chosen = section.blocks or (*range(3, last, 4), last)
    beyond = [block for block in chosen if block > last]
    if beyond:
        raise MinitronError(f"loss.hidden.blocks must be the student's, 0 to {last}, got {beyond[0]}")
    return HiddenMatch(
        loss=HIDDEN_LOSSES[section.kind](),
        weight=section.weight,
        pairs=tuple((block, kept.layers[block]) for block in chosen),
        channels=kept.channels,
    )


def _joined(records: Sequence[DistillRecord]) -> DistillRecord:
    curve: list[tuple[int, float]] = []
    tokens = 0
    for record in records:
        curve += [(tokens + at, loss) for at, loss in record.curve]
        tokens += record.tokens
    return DistillRecord(curve=tuple(curve), tokens=tokens, seconds=sum(record.seconds for record in records))


def _finish(
    recipe: Recipe,
    section: DistillSection,
    template: Checkpoint,
    written: Sequence[Checkpoint],
    records: Sequence[DistillRecord],
    whole: DistillRecord,
    output: Path,
) -> None:
    final, last = output / CHECKPOINT_FOLDER, written[-1].folder
    if last != final:
        shutil.rmtree(final, ignore_errors=True)
    if len(section.merge) > 1:
        result = merge_checkpoints(written[-len(section.merge) :], section.merge, final)
    else:
        result = open_checkpoint(last.rename(final))
    write_about(
        result,
        lineage_of(template, hashes=checkpoint_hashes(template.folder)),
        "distill",
        recipe=recipe.name,
        seed=recipe.seed,
        tokens=whole.tokens,
        **train_origin(section),
    )
    named = zip(section.stage_names, records, strict=True)
    write_record(whole, output / RECORD_FILE, stages=[{"name": name, "tokens": found.tokens} for name, found in named])
    shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    if len(written) == 1:
        shutil.rmtree(output / STAGES_FOLDER)


def run_distill(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Pruned checkpoint + teacher -> distilled checkpoint and its loss curve."""
    ranks = Ranks(recipe.device)
    pruned = open_checkpoint(folders["prune"] / CHECKPOINT_FOLDER)
    plans = [folders["prune"] / PLAN_FILE]
    if recipe.depth_first is not None:
        plans.insert(0, folders["depth"] / PLAN_FILE)
    recover(
        recipe,
        load_trained(pruned, recipe.distill, ranks, device=recipe.device),
        pruned,
        output,
        taught=Taught(folder=taught_by(recipe, folders), cache=folders["cache"]),
        kept=kept_by(plans),
        ranks=ranks,
    )
