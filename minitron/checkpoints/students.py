"""The file beside a checkpoint that says which smaller students its weights hold."""

from dataclasses import asdict
from pathlib import Path

from minitron.artifacts.json_files import read_record, write_json
from minitron.checkpoints.checkpoint import STUDENTS_FILE
from minitron.errors import CheckpointError
from minitron.models.nested import NestedStudents


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
