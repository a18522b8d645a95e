"""Cutting a checkpoint to a shape."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from minitron.api.checks import require_text
from minitron.api.shapes import kept_layers, read_shape, split_depth
from minitron.artifacts.artifact import differences, read_header, require_free, working_folder
from minitron.artifacts.locks import locked
from minitron.checkpoints.checkpoint import PLAN_FILE, Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.errors import ArtifactError, MinitronError
from minitron.importance.scores import Scores, load_scores
from minitron.pipeline.context import Execution
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, SCORES_FILE, STATE_FOLDER
from minitron.recipe.load import make_section
from minitron.recipe.prune import PruneSection
from minitron.runtime.loading import check_device

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"


def prune(
    checkpoint: str | Path,
    *,
    scores: str | Path,
    shape: str | Path | Mapping[str, object],
    output: str | Path,
    settings: Mapping[str, object] | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Cuts a checkpoint to a shape by its scores, file to file.

    Args:
        checkpoint: Hugging Face checkpoint folder.
        scores: Folder that `calibrate` or `minitron score` wrote for this checkpoint.
        shape: Prunable dims as Hugging Face spells them (`{"hidden_size": 4480}`), and `layers` (kept block indices)
            or `num_hidden_layers`; a mapping, JSON text, or a file of it.
        output: Folder that is new, empty, or a finished cut by the same inputs. An interrupted call, whose work lies
            beside it, is resumed.
        settings: Any setting of a recipe's prune section, as `{"repair": {"data": [{"path": "text.txt"}]}}`.
        device: torch device that norm compensation and repair run on.

    Returns:
        The pruned checkpoint.

    Raises:
        MinitronError: The scores are of another checkpoint, or the shape is malformed or cannot be reached.
    """
    section = make_section(PruneSection, dict(settings or {}))
    return prune_checkpoint_folder(Path(checkpoint), Path(scores), read_shape(shape), Path(output), section, device)


def prune_checkpoint_folder(
    checkpoint: Path, scores: Path, shape: Mapping[str, object], output: Path, section: PruneSection, device: str
) -> Checkpoint:
    """Cuts a checkpoint to a shape, as `prune` does.

    Raises:
        MinitronError: The scores are of another checkpoint, or the shape is malformed or cannot be reached.
    """
    check_device(device)
    source = open_checkpoint(checkpoint)
    for text in (section.compensate, section.repair):
        for one in () if text is None else text.data:
            require_text(one.path)
    loaded = _load_scores(scores, checkpoint)
    widths, depth = split_depth(shape)
    layers = kept_layers(depth, loaded, source)
    cut = Cut(source=source, scores=loaded, target=source.shape.resized(layers=layers, **widths), layers=layers)
    require_free(output)
    partial = working_folder(output)
    ours = {CHECKPOINT_FOLDER, PLAN_FILE, STATE_FOLDER, LOCK_FILE}
    if partial.exists() and {path.name for path in partial.iterdir()} - ours:
        raise ArtifactError(
            f"{partial} is in the way and was not written by minitron; move it or choose another output"
        )
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial / LOCK_FILE, output):
        prune_to(cut, partial / CHECKPOINT_FOLDER, section=section, execution=Execution(device=device))
        shutil.rmtree(partial / STATE_FOLDER, ignore_errors=True)
        (partial / PLAN_FILE).rename(partial / CHECKPOINT_FOLDER / PLAN_FILE)
        (partial / CHECKPOINT_FOLDER).rename(output)
    shutil.rmtree(partial)
    return open_checkpoint(output)


def _load_scores(folder: Path, checkpoint: Path) -> Scores:
    if read_header(folder) is None:
        raise MinitronError(f"a whole folder of scores is expected at {folder}")
    scores, now = load_scores(folder / SCORES_FILE), checkpoint_hashes(checkpoint)
    stale = differences({part: scores.origin.get(part) for part in now}, now)
    if stale:
        raise MinitronError(
            f"scores must be of the checkpoint that is pruned, those in {folder} are of another one: {stale[0]}"
        )
    return scores
