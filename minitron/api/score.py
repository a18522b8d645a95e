"""Scoring a checkpoint."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minitron.artifacts.artifact import finished_with, require_free
from minitron.artifacts.json_files import JsonObject
from minitron.artifacts.shared import shared_artifact
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.distributed import Ranks
from minitron.importance.scores import ScoreArray, Scores, load_scores
from minitron.importance.selection import mamba_heads
from minitron.pipeline import fingerprints
from minitron.pipeline.run_folder import SCORES_FILE
from minitron.pipeline.scoring import calibration_settings, score_folder
from minitron.recipe.load import make_section
from minitron.recipe.score import ScoreSection
from minitron.runtime.loading import check_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSummary:
    """How much one block matters, and how unevenly its units do.

    The units are FFN neurons, Mamba heads, attention heads or routed experts.

    Attributes:
        layer: Index of the block.
        kind: Its letter in the pattern.
        depth: Its depth score.
        removed: Its place in the order of a greedy removal, from 1; None where it stays.
        units: Number of its units; None where they have no scores.
        lowest: Lowest score of a unit over the mean.
        highest: Highest score of a unit over the mean.
    """

    layer: int
    kind: str
    depth: float
    removed: int | None
    units: int | None
    lowest: float | None
    highest: float | None

    def to_json(self) -> JsonObject:
        """As JSON."""
        return asdict(self)


def calibrate(
    checkpoint: str | Path,
    data: str | Sequence[str],
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
        checkpoint: Hugging Face checkpoint folder.
        data: Text files (.txt, .jsonl, .parquet) or dataset names.
        output: Folder that is new, empty, or holds such scores.
        settings: Any setting of a recipe's score section, as `{"samples": 128, "seq_len": 512}`.
        seed: Seed of the order of the text.
        device: torch device.

    Returns:
        The scores: arrays by axis and block.

    Raises:
        MinitronError: The checkpoint, the text or a setting cannot be used, or the folder holds something else.
    """
    paths = [data] if isinstance(data, str) else data
    section = make_section(ScoreSection, {"data": [{"path": path} for path in paths], **(settings or {})})
    return score_checkpoint(Path(checkpoint), section, output=Path(output), seed=seed, device=device)


def score_checkpoint(
    checkpoint: Path, section: ScoreSection, *, output: Path, seed: int = 0, device: str = "cpu"
) -> Scores:
    """Writes a checkpoint's scores into a folder, as `calibrate` does; several processes share the work.

    Raises:
        MinitronError: The checkpoint or the text cannot be used, or the folder holds something else.
    """
    check_device(device)
    calibration_settings(section)
    open_checkpoint(checkpoint)
    inputs = fingerprints.scores(checkpoint, section, seed=seed)
    if finished_with(output, inputs, what="the scores"):
        return load_scores(output / SCORES_FILE)
    require_free(output)
    ranks = Ranks(device)
    with shared_artifact(output, ranks, stage="score", inputs=inputs, seed=seed) as folder:
        return score_folder(checkpoint, section, folder, seed=seed, device=device, ranks=ranks)


def summarize_scores(scores: Scores, checkpoint: Checkpoint) -> list[BlockSummary]:
    """One entry a block."""
    summary = []
    for layer, kind in enumerate(checkpoint.shape.hybrid_override_pattern):
        units = _units(scores, layer)
        summary.append(
            BlockSummary(
                layer=layer,
                kind=kind,
                depth=float(scores.depth[layer]),
                removed=scores.removed.index(layer) + 1 if layer in scores.removed else None,
                units=None if units is None else len(units),
                lowest=None if units is None else float(units.min() / units.mean()),
                highest=None if units is None else float(units.max() / units.mean()),
            )
        )
    return summary


def _units(scores: Scores, layer: int) -> ScoreArray | None:
    if layer in scores.mamba:
        return mamba_heads(scores.mamba[layer])
    found = (scores.intermediate_size, scores.num_attention_heads, scores.n_routed_experts)
    return next((units[layer] for units in found if layer in units), None)
