"""Writing a student out of the checkpoint that holds it."""

from pathlib import Path

from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes
from minitron.checkpoints.lineage import lineage_of
from minitron.models.nested import NestedStudent
from minitron.pipeline.provenance import write_provenance
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan


def extract_student(source: Checkpoint, student: NestedStudent, output: Path) -> Checkpoint:
    """Writes a student as a checkpoint of its own, streamed out of the one that holds it.

    Args:
        source: The checkpoint that holds it.
        student: What it has of it.
        output: An empty folder, or that of an interrupted call.

    Raises:
        MinitronError: See `prune_checkpoint`.
    """
    plan = PrunePlan(source=source.shape, target=student.shape, keep=student.keep(source.shape), scales=student.scales)
    written = prune_checkpoint(source, plan, output)
    lineage = lineage_of(source, hashes=checkpoint_hashes(source.folder))
    write_provenance(written, lineage, "extract", student=student.name, layers=student.layers)
    return written
