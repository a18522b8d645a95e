"""Checks of arguments that need no torch, so that faults are reported at once: paths, names, shapes, devices."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from minitron.api.shapes import find_target
from minitron.artifacts.finished import require_free
from minitron.artifacts.header import HEADER_FILE, read_header, require_current
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.merging.mergeable import check_mergeable, interpolation_weights
from minitron.errors import ArtifactError, DataError, MinitronError
from minitron.importance.scores import Scores, load_scores
from minitron.pipeline.run_folder import SCORES_FILE
from minitron.recipe.source import Source
from minitron.recipe.source_checks import check_sources
from minitron.recipe.tokens import require_model_tokens
from minitron.settings import AUTO_DEVICE, SEEDS

# Device types of torch that a model can be computed on.
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


def require_device_name(device: str) -> None:
    """Refuses a device that torch has no such name for; whether this machine has one is checked when torch is loaded.

    Raises:
        MinitronError: The name is not a device type, or not one with an index.
    """
    kind, separator, index = device.partition(":")
    if device == AUTO_DEVICE:
        return
    if kind not in DEVICE_TYPES or (separator and not index.isdigit()):
        raise MinitronError(f"device must be one that torch knows, such as cpu or cuda:0, got {device!r}")


def require_seed(seed: int) -> None:
    """Refuses a seed that numpy does not take.

    Raises:
        MinitronError: It is not a whole number of 32 bits.
    """
    if not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise MinitronError(f"seed must be a whole number between 0 and {SEEDS - 1}, got {seed!r}")


def require_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint's configuration and headers.

    Raises:
        CheckpointError: The folder is not a whole checkpoint of a known family.
    """
    return open_checkpoint(folder)


def require_output(folder: Path) -> None:
    """Refuses an output folder that holds something other than a finished result.

    Whether a finished result was made from the same inputs takes hashing them; the command itself checks that.

    Raises:
        ArtifactError: It is a file, holds anything else, or is of an older version of minitron.
    """
    require_current(folder)
    if not (folder / HEADER_FILE).is_file():
        require_free(folder)


def require_scores(folder: Path) -> Scores:
    """Reads the scores that `minitron score` wrote.

    Raises:
        ArtifactError: The folder holds no finished scores.
        MinitronError: Their file cannot be read.
    """
    if read_header(folder) is None:
        raise ArtifactError(f"a whole folder of scores is expected at {folder}")
    return load_scores(folder / SCORES_FILE)


def require_target(checkpoint: Path, scores: Path, shape: Mapping[str, object]) -> None:
    """Refuses a shape that the checkpoint cannot be cut to.

    Raises:
        MinitronError: The checkpoint or the scores cannot be read, or the shape is malformed or cannot be reached.
    """
    find_target(open_checkpoint(checkpoint), require_scores(scores), shape)


def require_mergeable(folders: Sequence[Path], weights: Sequence[float] | None) -> None:
    """Refuses checkpoints that have no weighted average.

    Raises:
        CheckpointError: One cannot be read, they differ in shape or vocabulary, or the weights do not sum to 1.
    """
    sources = [open_checkpoint(folder) for folder in folders]
    check_mergeable(sources)
    if weights is not None:
        interpolation_weights(weights, len(sources))


def require_sources(sources: Sequence[Source], checkpoint: Path) -> None:
    """Refuses text that is not there, or whose first record the checkpoint's tokenizer could not read.

    Raises:
        MinitronError: Every fault at once, a line each.
    """
    check_sources(sources, checkpoint)


def require_text_tokens(checkpoint: Checkpoint, sources: Sequence[Source], *, task: str | None = None) -> None:
    """Refuses text that holds a token which the tokenizer has and the model has not.

    Raises:
        DataError: A text, or a prompt of the task, holds one; the message names it.
    """
    require_model_tokens(checkpoint, sources, task=task)


def require_run_on_text(checkpoint: Path, sources: Sequence[Source], *, device: str, output: Path) -> None:
    """Refuses what a command that runs a checkpoint on text and writes a folder cannot start from.

    Raises:
        MinitronError: The checkpoint, the text, the device's name or the output folder is not as it must be.
    """
    opened = require_checkpoint(checkpoint)
    require_sources(sources, checkpoint)
    require_text_tokens(opened, sources)
    require_device_name(device)
    require_output(output)


def require_file(path: Path, what: str) -> None:
    """Refuses a file that is not there.

    Raises:
        DataError: It is missing, or a folder.
    """
    if not path.is_file():
        raise DataError(f"{what} must be a file that is there, {path} is not")
