"""Extracting a smaller student out of the weights that it was trained in."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from minitron.api.students import checkpoint_of, find_student
from minitron.artifacts.artifact import move_up, write_artifact
from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.hashes import file_hash
from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.students import correction_file
from minitron.pipeline.nested.extraction import extract_student
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER


def extract(checkpoint: str | Path, shape: str | Path | Mapping[str, object], *, output: str | Path) -> Checkpoint:
    """Writes a smaller student out of a checkpoint that was distilled with `distill.students`.

    Its weights are those that it was trained with, bit for bit: slices of the checkpoint's and, where the recipe
    repairs what it cuts, the correction that the student started with. Sizes that were not trained are slices alone.

    Args:
        checkpoint: Checkpoint folder, or the folder of a run.
        shape: A student's name in the recipe; or sizes as Hugging Face spells them, `num_hidden_layers` among them, as
            a mapping, JSON text, or a file of it.
        output: Folder that is new, empty, or a finished extraction by the same inputs.

    Returns:
        The student's checkpoint.

    Raises:
        MinitronError: The checkpoint holds no students, or none of that name or shape.

    Example:
        ```python
        student = minitron.extract("runs/nested", "small", output="small/")
        print(f"{student.params:,} parameters in {student.folder}")
        ```
    """
    folder, output = checkpoint_of(Path(checkpoint)), Path(output)
    source = open_checkpoint(folder)
    student = find_student(source, shape)
    correction = correction_file(folder, student.name)
    inputs: JsonObject = {
        **checkpoint_hashes(folder),
        "shape": asdict(student.shape),
        "layers": list(student.layers),
        "correction": file_hash(correction) if correction.is_file() else None,
    }
    if finished_or_refused(output, inputs) is None:
        with write_artifact(output, stage="extract", inputs=inputs, seed=0) as partial:
            extract_student(source, student, partial / CHECKPOINT_FOLDER)
            move_up(partial / CHECKPOINT_FOLDER)
    return open_checkpoint(output)
