"""Writing a student out of the checkpoint that holds it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.students import correction_file
from minitron.checkpoints.weights import open_weights
from minitron.checkpoints.writing.journal import is_unfinished
from minitron.distill.nested.slices import corrected
from minitron.models.nested import NestedStudent
from minitron.pipeline.provenance import write_provenance
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction.write import write_repaired


def extract_student(source: Checkpoint, student: NestedStudent, output: Path) -> Checkpoint:
    """Writes a student as a checkpoint of its own, streamed out of the one that holds it.

    Args:
        source: The checkpoint that holds it.
        student: What it has of it.
        output: A folder of the caller's alone; what an interrupted call left in it is taken up or made anew.

    Raises:
        MinitronError: See `prune_checkpoint`.
    """
    if output.exists() and not is_unfinished(output):
        shutil.rmtree(output)  # corrections may have been added to some of its weights
    plan = PrunePlan(source=source.shape, target=student.shape, keep=student.keep(source.shape))
    written = prune_checkpoint(source, plan, output)
    correction = correction_file(source.folder, student.name)
    if correction.is_file():
        write_repaired(written, _corrected(written, correction))
    lineage = lineage_of(source, hashes=checkpoint_hashes(source.folder))
    write_provenance(written, lineage, "extract", student=student.name, layers=student.layers)
    return written


def _corrected(written: Checkpoint, path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(name on disk, slice plus correction) of every tensor that has one."""
    with safe_open(path, framework="pt") as corrections, open_weights(written) as read:
        for name in corrections.keys():  # noqa: SIM118 (not a dict)
            yield name, corrected(read(name).clone(), corrections.get_tensor(name))
