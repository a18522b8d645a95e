"""Scores of a checkpoint, as a recipe's score section describes them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from minitron.artifacts.header import STATE_FOLDER
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.distributed import Ranks
from minitron.importance.calibrate import calibrate
from minitron.importance.scores import LAYER_AXES, ScoreArray, Scores, save_scores
from minitron.importance.selection import mamba_channels, mamba_heads
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
        draw_scores(
            score_rows(scores), scores.depth, shape.hybrid_override_pattern, output, kinds=shape.family.block_kinds
        )
        shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    return scores


def score_rows(scores: Scores) -> dict[str, dict[str, ScoreArray]]:
    """Axis -> label of a row -> the scores of its units, as the pictures show them."""
    rows: dict[str, dict[str, ScoreArray]] = {
        "mamba_num_heads": {f"block {layer}": mamba_heads(score) for layer, score in scores.mamba.items()},
        "mamba_head_dim": {f"block {layer}": mamba_channels(score) for layer, score in scores.mamba.items()},
    }
    for axis in (axis for axis in LAYER_AXES if axis != "mamba"):
        # Neurons of experts, a row for each of them: best first, the mean over the experts.
        rows[axis] = {
            f"block {layer}": score if score.ndim == 1 else np.mean(-np.sort(-score, axis=1), axis=0)
            for layer, score in getattr(scores, axis).items()
        }
    if scores.hidden_size is not None:
        rows["hidden_size"] = {"all blocks": scores.hidden_size}
    return {axis: found for axis, found in rows.items() if found}
