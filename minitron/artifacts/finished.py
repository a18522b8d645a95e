"""The rule for a finished result: taken as it is when it was made from the same inputs, never overwritten otherwise."""

import logging
from collections.abc import Mapping
from pathlib import Path

from minitron.artifacts.header import (
    HEADER_FILE,
    ArtifactHeader,
    differences,
    hash_inputs,
    read_header,
    require_current,
)
from minitron.errors import ArtifactError

logger = logging.getLogger(__name__)


def find_finished(folder: Path, inputs: Mapping[str, object]) -> ArtifactHeader | None:
    """The header of a result that is finished and was made from the same inputs; None where it has to be made.

    What of the inputs changed is logged. A stage of a run asks this, whose folder in the run folder is made anew.

    Args:
        folder: The result's folder.
        inputs: What it would be made from now.

    Raises:
        ArtifactError: An older version of minitron wrote the folder.
    """
    require_current(folder)
    header = read_header(folder)
    if header is None:
        return None
    if header.inputs_hash == hash_inputs(inputs):
        logger.info("%s: finished before with the same inputs", folder)
        return header
    logger.info("%s: made anew, since %s", folder, "; ".join(differences(header.inputs, inputs)))
    return None


def finished_or_refused(folder: Path, inputs: Mapping[str, object]) -> ArtifactHeader | None:
    """The header of a finished result of the same inputs, None for a folder that is new or empty.

    All commands ask this of the output folder they are given.

    Args:
        folder: The output folder.
        inputs: What it would be made from now.

    Raises:
        ArtifactError: The folder holds a result of other inputs, which the message names, a damaged one, one of an
            older version, or something else.
    """
    found = find_finished(folder, inputs)
    if found is not None:
        return found
    header = read_header(folder)
    if header is not None:
        changed = "; ".join(differences(header.inputs, inputs))
        raise ArtifactError(
            f"the output folder must be new or empty, or hold a result of the same inputs; {folder} holds one "
            f"({header.stage}) of other inputs: {changed}"
        )
    if (folder / HEADER_FILE).is_file():
        raise ArtifactError(
            f"{folder} holds a damaged result: a file that {HEADER_FILE} lists is missing or has another size; remove "
            "the folder or choose another output"
        )
    require_free(folder)
    return None


def require_free(folder: Path) -> None:
    """Refuses an output folder that holds something.

    Raises:
        ArtifactError: It does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"the output folder must be new or empty, {folder} is not")
