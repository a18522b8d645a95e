"""Files beside a checkpoint that say which smaller students its weights hold."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from minitron.artifacts.atomic import READABLE, replacing
from minitron.artifacts.json_files import read_record, write_json
from minitron.checkpoints.checkpoint import STUDENTS_FILE
from minitron.errors import CheckpointError
from minitron.models.nested import NestedStudents

if TYPE_CHECKING:
    import torch

# A folder, since readers take every .safetensors file beside the weights for weights.
CORRECTIONS_FOLDER = "students"


def write_students(students: NestedStudents, folder: Path) -> None:
    """Writes the students of a checkpoint's weights beside them."""
    write_json(folder / STUDENTS_FILE, asdict(students))


def read_students(folder: Path) -> NestedStudents:
    """The students that a checkpoint's weights hold.

    Raises:
        CheckpointError: The checkpoint holds itself alone.
        ArtifactError: Its file cannot be read.
    """
    path = folder / STUDENTS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"a checkpoint must have been distilled with distill.students to hold smaller ones, {folder} has no "
            f"{STUDENTS_FILE}"
        )
    return read_record(path, NestedStudents)


def holds_students(folder: Path) -> bool:
    """Whether a checkpoint's weights hold smaller students."""
    return (folder / STUDENTS_FILE).is_file()


def correction_file(folder: Path, name: str) -> Path:
    """What is added to a student's slices; where there is no such file, nothing is."""
    return folder / CORRECTIONS_FOLDER / f"{name}.safetensors"


def write_correction(correction: Mapping[str, "torch.Tensor"], folder: Path, name: str) -> None:
    """Writes what is added to a student's slices, tensor by tensor."""
    from safetensors.torch import save_file

    path = correction_file(folder, name)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as partial:
        save_file(dict(correction), partial)
        partial.chmod(READABLE)
