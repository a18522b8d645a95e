"""Distilling a student over the phases of a curriculum, and writing it as a checkpoint."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedModel

from minitron.artifacts.header import STATE_FOLDER
from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.merging.merge import merge_checkpoints
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.distill.loss.hidden_states import HIDDEN_LOSSES
from minitron.distill.settings import HiddenSettings
from minitron.distill.training.model import HiddenMatch
from minitron.distill.training.record import DistillRecord, joined
from minitron.distill.training.stage import TrainingRun, distill
from minitron.errors import MinitronError
from minitron.pipeline import fingerprints
from minitron.pipeline.context import StageContext
from minitron.pipeline.nested.nesting import Nesting, write_nesting
from minitron.pipeline.provenance import write_provenance
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, RECORD_FILE
from minitron.pipeline.teachers import TeacherSource, open_teachers
from minitron.pipeline.training import (
    load_trained,
    objective_of,
    read_training_record,
    train_settings,
    write_trained,
    write_training_record,
)
from minitron.prune.plan import load_plan
from minitron.recipe.distill import DistillSection

PHASES_FOLDER = "phases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a student has of its teacher.

    Attributes:
        layers: The teacher's blocks, in the student's order.
        channels: The teacher's hidden channels; None when all.
    """

    layers: tuple[int, ...]
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How a student is distilled.

    Attributes:
        section: The curriculum.
        teacher: Where the teacher's logits come from.
        kept: What the student has of the teacher, where hidden states are matched; None where it is not known.
        nested: Smaller students that train on slices of its weights; None where there are none.
    """

    section: DistillSection
    teacher: TeacherSource
    kept: Kept | None = None
    nested: Nesting | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    """A finished phase: its name, its student and what its training recorded."""

    name: str
    student: Checkpoint
    record: DistillRecord


def compose_plans(plans: Sequence[Path]) -> Kept:
    """Composes pruning plans, applied in order, into the teacher's blocks and channels that are kept."""
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


def recover(context: StageContext, student: PreTrainedModel, template: Checkpoint, recovery: Recovery) -> DistillRecord:
    """Distills a student and writes it into `context.output`; resumes an interrupted attempt.

    Students of a curriculum's earlier phases, and all that are merged, stay in `phases/`.

    Args:
        context: The stage.
        student: What is trained first; later phases load what the one before them wrote.
        template: The checkpoint whose tensor names, dtypes and configuration the student has.
        recovery: How.

    Returns:
        Loss curve, tokens and seconds of all phases.

    Raises:
        MinitronError: Teacher and student do not share a vocabulary, or a phase cannot be trained.
    """
    section, ranks, output = recovery.section, context.ranks, context.output
    require_one_vocabulary(recovery.teacher.folder, template.folder)
    nested = () if recovery.nested is None else recovery.nested.trained
    teachers = open_teachers(context, section, recovery.teacher)
    finished: list[_Phase] = []
    source = template
    for position, (name, phase) in enumerate(zip(section.phase_names, section.curriculum, strict=True)):
        folder = output / PHASES_FOLDER / name
        # All look before the first one resumes, which may move what was found.
        if not ranks.min(int((folder / RECORD_FILE).is_file())):
            if finished:
                del student  # before the next one takes as much
                source = finished[-1].student
                student = load_trained(source, phase, ranks, device=context.recipe.device)
            lessons = teachers(position, phase)
            hidden = _hidden_match(phase.loss.hidden, recovery.kept)
            with naming_weights(template, open_checkpoint(recovery.teacher.folder)):
                record = distill(
                    student,
                    lessons.teacher,
                    lessons.sequences_NT,
                    train_settings(phase, objective_of(phase.loss), hidden=hidden, nested=nested),
                    run=TrainingRun(
                        state_folder=output / STATE_FOLDER / name,
                        seed=context.recipe.seed,
                        ranks=ranks,
                        weights=source,
                    ),
                    validation=lessons.validation,
                )
            del lessons
            write_trained(student, record, template, folder, ranks)
            if ranks.is_main:
                shutil.rmtree(output / STATE_FOLDER / name, ignore_errors=True)
        record = read_training_record(folder / RECORD_FILE)
        finished.append(_Phase(name=name, student=_phase_student(folder, output), record=record))
    ranks.barrier()
    if ranks.is_main:
        _finish(context, recovery, template, finished)
    ranks.barrier()
    return joined([phase.record for phase in finished])


def _phase_student(folder: Path, output: Path) -> Checkpoint:
    # An attempt that was interrupted while it finished may have moved the last student to where the result belongs.
    own = folder / CHECKPOINT_FOLDER
    return open_checkpoint(own if own.exists() else output / CHECKPOINT_FOLDER)


def _hidden_match(section: HiddenSettings | None, kept: Kept | None) -> HiddenMatch | None:
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


def _finish(context: StageContext, recovery: Recovery, template: Checkpoint, phases: Sequence[_Phase]) -> None:
    recipe, output, section = context.recipe, context.output, recovery.section
    final, last = output / CHECKPOINT_FOLDER, phases[-1].student.folder
    if last != final:
        shutil.rmtree(final, ignore_errors=True)
    if len(section.merge) > 1:
        merged = [phase.student for phase in phases[-len(section.merge) :]]
        result = merge_checkpoints(merged, section.merge, final)
    else:
        result = open_checkpoint(last.rename(final))
    if recovery.nested is not None:
        write_nesting(recovery.nested, final)
    whole = joined([phase.record for phase in phases])
    write_provenance(
        result,
        lineage_of(template, hashes=checkpoint_hashes(template.folder)),
        "distill",
        recipe=recipe.name,
        seed=recipe.seed,
        tokens=whole.tokens,
        **fingerprints.training(section),
    )
    described = [
        {"name": phase.name, "tokens": phase.record.tokens}
        | {name: part for name, part in asdict(phase.record).items() if name in ("validation", "rate")}
        for phase in phases
    ]
    write_training_record(whole, output / RECORD_FILE, phases=described)
    shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    if len(phases) == 1:
        shutil.rmtree(output / PHASES_FOLDER)
