"""Free disk space: checked before anything is written, and reported in one line when it runs out all the same."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minitron.errors import ArtifactError
from minitron.units import GIB

# No space, over the quota, over the process's limit of file size.
FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


def require_room(folder: Path, needed_bytes: int, *, what: str) -> None:
    """Refuses to begin what the folder's filesystem has no room for.

    Args:
        folder: Where it is to be written.
        needed_bytes: How much of it is missing there.
        what: What the sentence calls it.

    Raises:
        ArtifactError: Fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ArtifactError(
            f"the filesystem of {folder} must have {needed_bytes / GIB:.3f} GiB free for {what}, "
            f"it has {free / GIB:.3f} GiB; make room or choose another output"
        )


@contextmanager
def reporting_full_disk(folder: Path) -> Iterator[None]:
    """Turns the system's error of a full disk inside the block into one line.

    Raises:
        ArtifactError: The disk, the quota or the limit of file size was reached.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ArtifactError(
            f"writing {folder} must not fill the filesystem, it did ({error.strerror}); make room and call again to "
            "resume from the last whole file"
        ) from error


def allocated_bytes(path: Path) -> int:
    """Bytes that a file takes on the disk, 0 where there is none; its length where the system does not say."""
    if not path.is_file():
        return 0
    status = path.stat()
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * 512
