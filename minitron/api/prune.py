"""Cutting a checkpoint to a shape."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from minitron.api.checks import require_scores, require_sources
from minitron.api.shapes import find_target, read_shape
from minitron.artifacts.artifact import move_up
from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.hashes import file_hash
from minitron.artifacts.header import differences
from minitron.artifacts.json_files import JsonObject
from minitron.artifacts.shared import hash_once, shared_artifact
from minitron.checkpoints.checkpoint import VOCABULARY_FILE, Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.hub import find_checkpoint
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.failures import failing_together
from minitron.importance.scores import Scores
from minitron.pipeline import fingerprints
from minitron.pipeline.context import Execution
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, SCORES_FILE
from minitron.pipeline.vocabulary.cut import cut_vocabulary
from minitron.recipe.load import make_section
from minitron.recipe.prune import PruneSection
from minitron.runtime.devices import resolve_device

# The checkpoint with the kept tokens, all widths still whole; there while a cut of both is made.
KEPT_FOLDER = "vocabulary"


def prune(
    checkpoint: str | Path,
    *,
    scores: str | Path,
    shape: str | Path | Mapping[str, object],
    output: str | Path,
    settings: Mapping[str, object] | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Cuts a checkpoint to a shape by its scores, file to file; several processes share the work.

    Args:
        checkpoint: Hugging Face checkpoint folder, or its name on the hub.
        scores: Folder that `calibrate` or `minitron score` wrote for this checkpoint.
        shape: Prunable dims as Hugging Face spells them (`{"hidden_size": 4480}`), and `layers` (kept block indices)
            or `num_hidden_layers`; a mapping, JSON text, or a file of it.
        output: Folder that is new, empty, or a finished cut by the same inputs. An interrupted call, whose work lies
            beside it, is resumed.
        settings: Any setting of a recipe's prune section, as `{"repair": {"data": [{"path": "text.txt"}]}}`.
        device: torch device that norm compensation and repair run on; `auto`: cuda where torch sees one, else cpu.

    Returns:
        The pruned checkpoint.

    Raises:
        MinitronError: The scores are of another checkpoint, or the shape is malformed or cannot be reached.

    Example:
        ```python
        shape = {"hidden_size": 4480, "intermediate_size": 15680, "num_hidden_layers": 56}
        pruned = minitron.prune("nvidia-12b/", scores="scores/", shape=shape, output="pruned/")
        print(f"{pruned.params:,} parameters in {pruned.folder}")
        ```
    """
    section = make_section(PruneSection, dict(settings or {}))
    folder = find_checkpoint(checkpoint)
    return prune_checkpoint_folder(folder, Path(scores), read_shape(shape), Path(output), section, device)


def prune_checkpoint_folder(
    checkpoint: Path, scores: Path, shape: Mapping[str, object], output: Path, section: PruneSection, device: str
) -> Checkpoint:
    """Cuts a checkpoint to a shape, as `prune` does.

    Raises:
        MinitronError: The scores are of another checkpoint, or the shape is malformed or cannot be reached.
    """
    device = resolve_device(device)
    ranks, source = Ranks(device), open_checkpoint(checkpoint)
    for text in (section.vocabulary, section.compensate, section.block_widths, section.repair):
        if text is not None:
            require_sources(text.data, checkpoint)
    loaded = hash_once(ranks, lambda: _load_scores(scores, checkpoint))
    target, layers = find_target(source, loaded, shape)
    asked: JsonObject = {"shape": asdict(target), "layers": list(layers)}
    inputs = hash_once(ranks, lambda: _read(checkpoint, scores) | asked | {"prune": fingerprints.pruning(section)})
    if finished_or_refused(output, inputs) is None:
        with (
            failing_together(ranks),
            shared_artifact(output, ranks, stage="prune", inputs=inputs, seed=0) as partial,
        ):
            kept = partial / KEPT_FOLDER
            source = _with_kept_tokens(source, section, kept, ranks)
            target = replace(target, vocab_size=source.shape.vocab_size)
            cut = Cut(source=source, scores=loaded, target=target, layers=layers)
            execution = Execution(device=device)
            prune_to(cut, partial / CHECKPOINT_FOLDER, section=section, execution=execution, ranks=ranks)
            if ranks.is_main:
                if section.vocabulary is not None:
                    (kept / VOCABULARY_FILE).replace(partial / VOCABULARY_FILE)
                    shutil.rmtree(kept)
                move_up(partial / CHECKPOINT_FOLDER)
    return open_checkpoint(output)


def _read(checkpoint: Path, scores: Path) -> JsonObject:
    return {**checkpoint_hashes(checkpoint), "scores": file_hash(scores / SCORES_FILE)}


def _with_kept_tokens(source: Checkpoint, section: PruneSection, folder: Path, ranks: Ranks) -> Checkpoint:
    """The source with the tokens of a text alone where that is asked for; one that was finished before is taken.

    Of several processes the first one makes it.
    """
    if section.vocabulary is None:
        return source
    output = folder / CHECKPOINT_FOLDER
    if ranks.is_main and not (folder / VOCABULARY_FILE).is_file():
        cut_vocabulary(source, section.vocabulary, output, shard_gib=section.shard_gib)
    ranks.barrier()
    return open_checkpoint(output)


def _load_scores(folder: Path, checkpoint: Path) -> Scores:
    scores, now = require_scores(folder), checkpoint_hashes(checkpoint)
    stale = differences({part: scores.origin.get(part) for part in now}, now)
    if stale:
        raise MinitronError(
            f"scores must be of the checkpoint that is pruned, those in {folder} are of another one: {stale[0]}"
        )
    return scores
