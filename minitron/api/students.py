"""Smaller students as users name them: by a name of the recipe, or by sizes. Loads no torch."""

from collections.abc import Mapping
from pathlib import Path

from minitron.api.shapes import read_shape, split_depth
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.students import read_students
from minitron.errors import ShapeError
from minitron.models.nested import NestedStudent
from minitron.pipeline.run_folder import RunFolder

# What a student is called that was not trained under a name.
UNNAMED = "unnamed"


def checkpoint_of(folder: Path) -> Path:
    """The distilled checkpoint of a run folder; any other folder is the checkpoint itself."""
    distilled = RunFolder(folder).student
    return distilled if distilled.is_dir() else folder


def find_student(source: Checkpoint, shape: str | Path | Mapping[str, object]) -> NestedStudent:
    """A student that a checkpoint holds, by its name or its sizes.

    Raises:
        MinitronError: The checkpoint holds no students, or none of that name or shape.
    """
    students = read_students(source.folder)
    if isinstance(shape, str) and shape in {student.name for student in students.students}:
        return students.named(shape)
    try:
        sizes = read_shape(shape)
    except ShapeError as error:
        names = ", ".join(student.name for student in students.students)
        raise ShapeError(
            f"a student must be one of {names}, or sizes as JSON or a file of it, got {shape!r}"
        ) from error
    widths, depth = split_depth(sizes)
    if isinstance(depth, list):
        raise ShapeError("a student has the blocks that are left of its number, give num_hidden_layers, not layers")
    return students.of_size(source.shape, widths, depth, name=UNNAMED)
