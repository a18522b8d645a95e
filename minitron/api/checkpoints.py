"""Single stages outside a recipe: what `minitron score`, `prune` and `eval` do with their arguments."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minitron.artifacts.artifact import hash_inputs, locked, read_header, working_folder, write_artifact
from minitron.artifacts.shared import shared_artifact
from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.merging.merge import merge_checkpoints
from minitron.checkpoints.merging.mergeable import check_mergeable, interpolation_weights
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.estimate.serving.workload import Workload
from minitron.importance.scores import ScoreArray, Scores, load_scores, stale_parts
from minitron.importance.selection import mamba_heads, top_blocks
from minitron.models.quotas import BlockQuotas
from minitron.pipeline.provenance import write_about
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, PLAN_FILE, SCORES_FILE, STATE_FOLDER
from minitron.pipeline.stages.evaluate import evaluate_folder
from minitron.pipeline.stages.prune import prune_to
from minitron.pipeline.stages.score import calibration_settings, score_folder, score_origin
from minitron.pipeline.text import data_hashes
from minitron.prune.plan import PrunePlan, load_plan
from minitron.prune.plan_summary import describe_plan, diff_plans
from minitron.recipe.evaluate import EvaluateSection, Task
from minitron.recipe.prune import PruneSection
from minitron.recipe.score import ScoreSection
from minitron.recipe.source import Source
from minitron.runtime.loading import check_device, load_model

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"


def score_checkpoint(
    checkpoint: Path, section: ScoreSection, *, output: Path, seed: int, device: str
) -> list[dict[str, Any]]:
    """Writes a checkpoint's scores into a folder and returns a summary, one entry a block.

    Scores that are there already, made from the same inputs, are taken as they are; an interrupted call is gone on
    with. Several processes started together share the work.

    Raises:
        MinitronError: The checkpoint or the text cannot be used, or the folder holds something else.
    """
    check_device(device)
    calibration_settings(section)
    opened = open_checkpoint(checkpoint)
    origin = score_origin(checkpoint, section, seed=seed)
    finished = read_header(output)
    if finished is not None:
        stale = stale_parts(finished.inputs, origin)
        if stale:
            raise MinitronError("\n".join(f"the scores in {output} are stale: {line}" for line in stale))
        logger.info("%s: finished before with the same inputs", output)
        return summarize(load_scores(output / SCORES_FILE), opened)
    _require_free(output)
    ranks = Ranks(device)
    with shared_artifact(output, ranks, stage="score", inputs=origin, seed=seed) as folder:
        scores = score_folder(checkpoint, section, folder, seed=seed, device=device, ranks=ranks)
    return summarize(scores, opened)


def prune_to_shape(
    checkpoint: Path,
    *,
    scores: Path,
    shape: str,
    output: Path,
    section: PruneSection | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Cuts a checkpoint to a shape, given as JSON or as a file of it, as a recipe's section says.

    The shape's keys are prunable dims as Hugging Face spells them, and `layers` (kept block indices) or
    `num_hidden_layers`. An interrupted call's work, which lies beside `output`, is gone on with.

    Raises:
        MinitronError: The scores are of another checkpoint, or the shape is malformed or cannot be reached.
    """
    check_device(device)
    source = open_checkpoint(checkpoint)
    for text in (section.compensate, section.repair) if section is not None else ():
        if text is not None:
            data_hashes(text.data)  # a missing file is found now and not after the cut
    if read_header(scores) is None:
        raise MinitronError(f"a whole folder of scores is expected at {scores}")
    loaded = load_scores(scores / SCORES_FILE)
    now = checkpoint_hashes(checkpoint)
    stale = stale_parts({part: loaded.origin.get(part) for part in now}, now)
    if stale:
        raise MinitronError(
            f"scores must be of the checkpoint that is pruned, those in {scores} are of another one: {stale[0]}"
        )
    sizes = _read_shape(shape)
    layers = _kept_layers(sizes, loaded, source)
    target = source.shape.resized(layers=layers, **sizes)
    _require_free(output)
    partial = working_folder(output)
    ours = {"checkpoint", PLAN_FILE, STATE_FOLDER, LOCK_FILE}
    if partial.exists() and {path.name for path in partial.iterdir()} - ours:
        raise MinitronError(
            f"{partial} is in the way and was not written by minitron; move it or choose another output"
        )
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial / LOCK_FILE, output):
        prune_to(source, loaded, target, layers, partial / "checkpoint", section=section, device=device)
        shutil.rmtree(partial / STATE_FOLDER, ignore_errors=True)
        (partial / PLAN_FILE).rename(partial / "checkpoint" / PLAN_FILE)
        (partial / "checkpoint").rename(output)
        shutil.rmtree(partial)
    return open_checkpoint(output)


def merge_folders(folders: Sequence[Path], weights: Sequence[float] | None, *, output: Path) -> dict[str, Any]:
    """Merges checkpoints of one shape into a folder that is whole or not there, and says what it holds.

    A finished output that was made from the same checkpoints with the same weights is taken as it is.

    Args:
        folders: Two or more.
        weights: One for each, of sum 1; None for equal ones.
        output: A folder that is new or empty.

    Raises:
        MinitronError: The checkpoints or weights cannot be used, the folder holds something else, or a checkpoint
            changes meanwhile.
    """
    sources = [open_checkpoint(folder) for folder in folders]
    check_mergeable(sources)
    weights = [1 / len(sources)] * len(sources) if weights is None else weights
    shares = interpolation_weights(weights, len(sources))
    hashes = [checkpoint_hashes(folder) for folder in folders]
    inputs = {"weights": shares, "sources": hashes}
    finished = read_header(output)
    if finished is not None and finished.inputs_hash == hash_inputs(inputs):
        logger.info("%s: finished before with the same inputs", output)
        return {"output": str(output), "params": open_checkpoint(output).params, "weights": shares}
    _require_free(output)
    with write_artifact(output, stage="merge", inputs=inputs, seed=0) as partial:
        folder = partial / CHECKPOINT_FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted call's
        merged = merge_checkpoints(sources, shares, folder)
        if [checkpoint_hashes(folder) for folder in folders] != hashes:
            raise MinitronError("checkpoints must not change while they are merged, one did; call again once it rests")
        said = [
            {"name": source.folder.resolve().name, "sha256": found}
            for source, found in zip(sources, hashes, strict=True)
        ]
        write_about(merged, lineage_of(sources[0], hashes=hashes[0]), "merge", weights=shares, sources=said)
        for path in list(folder.iterdir()):
            path.rename(partial / path.name)
        folder.rmdir()
    return {"output": str(output), "params": merged.params, "weights": shares}


def show_plan(path: Path) -> dict[str, Any]:
    """What a plan, given as its file or the folder that holds it, keeps and cuts."""
    return describe_plan(_read_plan(path))


def compare_plans(path: Path, other: Path) -> dict[str, Any]:
    """How two plans for one source differ."""
    return diff_plans(_read_plan(path), _read_plan(other))


def _read_plan(path: Path) -> PrunePlan:
    return load_plan(path / PLAN_FILE if path.is_dir() else path)


def evaluate_checkpoint(
    checkpoint: Path,
    *,
    data: str,
    teacher: Path | None,
    task: str | None,
    max_new_tokens: int,
    blocks: int,
    seq_len: int,
    context_tokens: int,
    device: str,
) -> dict[str, Any]:
    """Measures one checkpoint."""
    section = EvaluateSection(
        data=(Source(path=data),),
        blocks=blocks,
        seq_len=seq_len,
        task=None if task is None else Task(name=Path(task).stem, path=task, max_new_tokens=max_new_tokens),
    )
    workload = Workload(context_tokens=context_tokens)
    loaded = None if teacher is None else load_model(teacher, device=device)
    return evaluate_folder(checkpoint, section, workload, teacher=loaded, seed=0, device=device)


def summarize(scores: Scores, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """One entry a block: kind, depth score, and the spread of its units' scores around their mean.

    The units are FFN neurons, Mamba heads, attention heads or routed experts.
    """
    summary = []
    for layer, kind in enumerate(checkpoint.shape.hybrid_override_pattern):
        units = _units(scores, layer)
        summary.append(
            {
                "layer": layer,
                "kind": kind,
                "depth": float(scores.depth[layer]),
                "removed": scores.removed.index(layer) + 1 if layer in scores.removed else None,
                "units": None if units is None else len(units),
                "lowest": None if units is None else float(units.min() / units.mean()),
                "highest": None if units is None else float(units.max() / units.mean()),
            }
        )
    return summary


def _units(scores: Scores, layer: int) -> ScoreArray | None:
    if layer in scores.mamba:
        return mamba_heads(scores.mamba[layer])
    found = (scores.intermediate_size, scores.num_attention_heads, scores.n_routed_experts)
    return next((units[layer] for units in found if layer in units), None)


def _read_shape(shape: str) -> dict[str, Any]:
    inline = shape.lstrip().startswith("{")
    text = Path(shape).read_text(encoding="utf-8") if not inline and Path(shape).is_file() else shape
    try:
        sizes = json.loads(text)
    except json.JSONDecodeError as error:
        raise MinitronError(f"a shape must be a JSON object or a file of one, got {shape!r}") from error
    if not isinstance(sizes, dict):
        raise MinitronError(f"a shape must be a JSON object, got {shape!r}")
    return sizes


def _kept_layers(sizes: dict[str, Any], scores: Scores, source: Checkpoint) -> tuple[int, ...]:
    layers, count = sizes.pop("layers", None), sizes.pop("num_hidden_layers", None)
    pattern = source.shape.hybrid_override_pattern
    if layers is not None:
        if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
            raise MinitronError(f"layers must be a list of block indices, got {layers!r}")
        if count not in (None, len(layers)):
            raise MinitronError(f"layers and num_hidden_layers must agree, got {len(layers)} blocks and {count!r}")
        return tuple(layers)
    if count is None:
        return tuple(range(len(pattern)))
    if not isinstance(count, int):
        raise MinitronError(f"num_hidden_layers must be a whole number, got {count!r}")
    return top_blocks(
        scores.depth,
        pattern,
        count,
        quotas=BlockQuotas(at_least=dict.fromkeys(source.shape.family.kinds_that_keep("kv"), 1)),
    )


def _require_free(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MinitronError(f"the output folder must be new or empty, {output} is not")
