"""Teacher + the distillation's text -> a teacher that knows that text (arXiv 2408.11796, teacher correction)."""

import shutil
from pathlib import Path
from typing import Any

from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import lineage_of
from minitron.distill.loss.objective import Objective
from minitron.distill.training.stage import distill
from minitron.distributed import Ranks
from minitron.pipeline.provenance import write_about
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, STATE_FOLDER, TRAINED_FOLDER, Folders
from minitron.pipeline.training import load_trained, packed_text, train_origin, train_settings, write_trained
from minitron.recipe.distill import CorrectionSection
from minitron.recipe.recipe import Recipe

FINE_TUNING = Objective(divergence=None, cross_entropy=1.0)


def correction(recipe: Recipe) -> CorrectionSection | None:
    """How the recipe corrects its teacher, with the text that it leaves out taken from the distillation."""
    section = recipe.correct_teacher
    if section is None or section.data:
        return section
    return section.model_copy(update={"data": recipe.distill.curriculum[0].data})


def correct_origin(recipe: Recipe) -> dict[str, Any] | None:
    """Everything that a corrected teacher depends on beside the teacher; None where it is not corrected."""
    section = correction(recipe)
    return None if section is None else train_origin(section)


def run_correct(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher -> corrected teacher; goes on where it was interrupted."""
    section, ranks = correction(recipe), Ranks(recipe.device)
    assert section is not None
    teacher = open_checkpoint(Path(recipe.teacher))
    state = output / STATE_FOLDER
    if not ranks.min(int((output / TRAINED_FOLDER).exists())):
        model = load_trained(teacher, section, ranks, device=recipe.device)
        sequences_NT = packed_text(section, teacher.folder, state / "text.tokens", seed=recipe.seed, ranks=ranks)
        settings = train_settings(section, FINE_TUNING)
        record = distill(
            model, None, sequences_NT, settings, state_folder=state / "training", seed=recipe.seed, ranks=ranks
        )
        write_trained(model, record, teacher, output / TRAINED_FOLDER, ranks)
    if ranks.is_main:
        corrected = open_checkpoint(output / TRAINED_FOLDER / CHECKPOINT_FOLDER)
        lineage = lineage_of(teacher, hashes=checkpoint_hashes(teacher.folder))
        write_about(corrected, lineage, "correct", recipe=recipe.name, seed=recipe.seed, **train_origin(section))
        shutil.rmtree(state, ignore_errors=True)
    ranks.barrier()
