"""Merging checkpoints."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.artifact import move_up, write_artifact
from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.hub import find_checkpoint, hub_origin
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.merging.merge import merge_checkpoints
from minitron.checkpoints.merging.mergeable import check_mergeable, interpolation_weights
from minitron.errors import CheckpointError
from minitron.pipeline.provenance import write_provenance
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A merged checkpoint: its folder, its parameters, and the weight of each source."""

    output: Path
    params: int
    weights: tuple[float, ...]

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {"output": str(self.output), "params": self.params, "weights": list(self.weights)}


def merge(checkpoints: Sequence[str | Path], *, output: str | Path, weights: Sequence[float] | None = None) -> Merged:
    """Writes the weighted average of checkpoints of one shape.

    A finished output that was made from the same checkpoints with the same weights is taken as it is.

    Args:
        checkpoints: Two or more folders, or names on the Hugging Face hub.
        output: Folder that is new, empty, or holds such a merge.
        weights: One for each, of sum 1; equal ones when None.

    Raises:
        MinitronError: The checkpoints or weights cannot be used, the folder holds something else, or a checkpoint
            changes meanwhile.

    Example:
        ```python
        merged = minitron.merge(["student-a/", "student-b/"], weights=[0.5, 0.5], output="merged/")
        print(merged.params, merged.weights)
        ```
    """
    folders, output = [find_checkpoint(given) for given in checkpoints], Path(output)
    sources = [open_checkpoint(folder) for folder in folders]
    check_mergeable(sources)
    shares = interpolation_weights(weights or [1 / len(sources)] * len(sources), len(sources))
    hashes = [checkpoint_hashes(folder) for folder in folders]
    inputs: JsonObject = {"weights": list(shares), "sources": [{**found} for found in hashes]}
    if finished_or_refused(output, inputs) is not None:
        return Merged(output=output, params=open_checkpoint(output).params, weights=tuple(shares))
    with write_artifact(output, stage="merge", inputs=inputs, seed=0) as partial:
        folder = partial / CHECKPOINT_FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted call's
        merged = merge_checkpoints(sources, shares, folder)
        if [checkpoint_hashes(one) for one in folders] != hashes:
            raise CheckpointError(
                "checkpoints must not change while they are merged, one did; call again once it rests"
            )
        described = [{**_origin(source), "sha256": found} for source, found in zip(sources, hashes, strict=True)]
        lineage = lineage_of(sources[0], hashes=hashes[0])
        write_provenance(merged, lineage, "merge", weights=shares, sources=described)
        move_up(folder)
    return Merged(output=output, params=merged.params, weights=tuple(shares))


def _origin(source: Checkpoint) -> dict[str, object]:
    origin = hub_origin(source.folder)
    return {"name": source.folder.resolve().name} if origin is None else {"name": origin.repo, "commit": origin.commit}
