"""Checks of what was given that need no torch, so that a fault is told at once: paths, names, device spellings."""

import re
from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.documents import TEXT_SUFFIXES, is_text_file
from minitron.errors import DataError, MinitronError

# Device types of torch that a model can be computed on.
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
# `owner/name` on the Hugging Face hub, or one of its few names without an owner.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def require_device_name(device: str) -> None:
    """Refuses a device that is not spelled as torch spells them; whether it is there is seen when it is used.

    Raises:
        MinitronError: The name is not a device type, or not one with an index.
    """
    kind, separator, index = device.partition(":")
    if kind not in DEVICE_TYPES or (separator and not index.isdigit()):
        raise MinitronError(f"device must be one that torch knows, such as cpu or cuda:0, got {device!r}")


def require_checkpoint(folder: Path) -> None:
    """Reads a checkpoint's configuration and headers.

    Raises:
        CheckpointError: The folder is not a whole checkpoint of a known family.
    """
    open_checkpoint(folder)


def require_text(source: str) -> None:
    """Refuses text that cannot be there: a missing file, or what is neither a text file nor a dataset's name.

    Raises:
        DataError: It is missing or of another kind.
    """
    if is_text_file(source):
        require_file(Path(source), "a text source")
    elif Path(source).exists():
        raise DataError(f"a text source must be {', '.join(TEXT_SUFFIXES)} or a dataset name, got {source}")
    elif not HUB_NAME.fullmatch(source):
        raise DataError(f"a text source must be a file that is there or a dataset's owner/name, got {source}")


def require_file(path: Path, what: str) -> None:
    """Refuses a file that is not there.

    Raises:
        DataError: It is missing, or a folder.
    """
    if not path.is_file():
        raise DataError(f"{what} must be a file that is there, {path} is not")
