"""Stage `correct`: teacher + the distillation's text -> a teacher fine-tuned on it (arXiv 2408.11796, section 2.2)."""

import shutil
from pathlib import Path

from minitron.artifacts.header import STATE_FOLDER
from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import lineage_of
from minitron.distill.loss.objective import Objective
from minitron.distill.training.stage import TrainingRun, distill
from minitron.distill.training.validation import ValidationText
from minitron.pipeline import fingerprints
from minitron.pipeline.context import StageContext
from minitron.pipeline.provenance import write_provenance
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, TRAINED_FOLDER
from minitron.pipeline.sections import correction_section
from minitron.pipeline.training import load_trained, packed_text, train_settings, write_trained

FINE_TUNING = Objective(divergence=None, cross_entropy=1.0)


def run(context: StageContext) -> None:
    """Fine-tunes the teacher; resumes an interrupted attempt."""
    recipe, ranks, output = context.recipe, context.ranks, context.output
    section = correction_section(recipe)
    assert section is not None
    teacher = open_checkpoint(Path(recipe.teacher))
    state = output / STATE_FOLDER
    if not ranks.min(int((output / TRAINED_FOLDER).exists())):
        model = load_trained(teacher, section, ranks, device=recipe.device)
        text = packed_text(section, teacher.folder, state / "text.tokens", seed=recipe.seed, ranks=ranks)
        settings = train_settings(section, FINE_TUNING)
        record = distill(
            model,
            None,
            text.sequences_NT,
            settings,
            run=TrainingRun(state_folder=state / "training", seed=recipe.seed, ranks=ranks, weights=teacher),
            validation=ValidationText(sequences_NT=text.validation_NT, teacher=None),
        )
        write_trained(model, record, teacher, output / TRAINED_FOLDER, ranks)
    if ranks.is_main:
        corrected = open_checkpoint(output / TRAINED_FOLDER / CHECKPOINT_FOLDER)
        lineage = lineage_of(teacher, hashes=checkpoint_hashes(teacher.folder))
        write_provenance(
            corrected, lineage, "correct", recipe=recipe.name, seed=recipe.seed, **fingerprints.training(section)
        )
        shutil.rmtree(state, ignore_errors=True)
    ranks.barrier()
