"""Scores of a checkpoint, as a recipe's score section describes them."""

import shutil
from dataclasses import replace
from pathlib import Path

from minitron.artifacts.header import STATE_FOLDER
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.distributed import Ranks
from minitron.importance.calibrate import calibrate
from minitron.importance.rows import row_label, score_rows
from minitron.importance.scores import Scores, save_scores
from minitron.pipeline import fingerprints
from minitron.pipeline.calibration import open_stack, read_samples
from minitron.pipeline.run_folder import SCORES_FILE
from minitron.recipe.score import ScoreSection
from minitron.report.score_figures import draw_scores


def score_folder(
    teacher: Path, section: ScoreSection, output: Path, *, seed: int, device: str, ranks: Ranks | None = None
) -> Scores:
    """Calibrates a checkpoint and writes its scores and pictures of them; resumes an interrupted call."""
    ranks = ranks or Ranks(device)
    if ranks.world_size > 1:
        device = str(ranks.device)
    checkpoint = open_checkpoint(teacher)
    samples = read_samples(section, checkpoint, seed=seed)
    stack = open_stack(checkpoint, layerwise=section.layerwise, device=device)
    with naming_weights(checkpoint):
        scores = calibrate(stack, samples, section, ranks=ranks, state_folder=output / STATE_FOLDER)
    scores = replace(scores, origin=fingerprints.scores(teacher, section, seed=seed))
    ranks.barrier()
    if ranks.is_main:
        save_scores(scores, output / SCORES_FILE)
        shape = checkpoint.shape
        rows = {
            axis: {row_label(layer): score for layer, score in found.items()}
            for axis, found in score_rows(scores).items()
        }
        draw_scores(rows, scores.depth, shape.hybrid_override_pattern, output, kinds=shape.family.block_kinds)
        shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    return scores
