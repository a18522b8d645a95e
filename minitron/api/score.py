"""Scoring a checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path

from minitron.api.checks import require_seed
from minitron.api.text import Text, source_settings
from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.shared import hash_once, shared_artifact
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.hub import find_checkpoint
from minitron.distributed import Ranks
from minitron.failures import failing_together
from minitron.importance.scores import Scores, load_scores
from minitron.pipeline import fingerprints
from minitron.pipeline.run_folder import SCORES_FILE
from minitron.pipeline.scoring import score_folder
from minitron.recipe.load import make_section
from minitron.recipe.score import ScoreSection
from minitron.runtime.devices import resolve_device

logger = logging.getLogger(__name__)


def calibrate(
    checkpoint: str | Path,
    data: Text,
    *,
    output: str | Path,
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Scores:
    """Runs calibration text through a checkpoint's model and writes how much each unit and block matters.

    Scores that are in `output` already, made from the same inputs, are taken as they are; an interrupted call is
    resumed.

    Args:
        checkpoint: Hugging Face checkpoint folder, or its name on the hub.
        data: Calibration text: a path or a dataset's name, a mapping of a source's settings, or several of them.
        output: Folder that is new, empty, or holds such scores.
        settings: Any setting of a recipe's score section, as `{"samples": 128, "seq_len": 512}`.
        seed: Seed of the order of the text.
        device: torch device; `auto`: cuda where torch sees one, else cpu.

    Returns:
        The scores: arrays by axis and block.

    Raises:
        MinitronError: The checkpoint, the text or a setting cannot be used, or the folder holds something else.

    Example:
        ```python
        scores = minitron.calibrate("teacher/", "text.jsonl", output="scores/", settings={"samples": 128})
        print(scores.depth, scores.intermediate_size[1].shape)  # [L]; [F] of the MLP in block 1
        ```
    """
    section = make_section(ScoreSection, {"data": source_settings(data), **(settings or {})})
    return score_checkpoint(find_checkpoint(checkpoint), section, output=Path(output), seed=seed, device=device)


def score_checkpoint(
    checkpoint: Path, section: ScoreSection, *, output: Path, seed: int = 0, device: str = "cpu"
) -> Scores:
    """Writes a checkpoint's scores into a folder, as `calibrate` does; several processes share the work.

    Raises:
        MinitronError: The checkpoint or the text cannot be used, or the folder holds something else.
    """
    require_seed(seed)
    device = resolve_device(device)
    open_checkpoint(checkpoint)
    ranks = Ranks(device)
    inputs = hash_once(ranks, lambda: fingerprints.scores(checkpoint, section, seed=seed))
    if finished_or_refused(output, inputs) is not None:
        return load_scores(output / SCORES_FILE)
    with (
        failing_together(ranks),
        shared_artifact(output, ranks, stage="score", inputs=inputs, seed=seed) as folder,
    ):
        return score_folder(checkpoint, section, folder, seed=seed, device=device, ranks=ranks)
