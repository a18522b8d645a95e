"""An artifact that several processes make together: the first one opens and closes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minitron.artifacts.artifact import working_folder, write_artifact
from minitron.distributed import Ranks


@contextmanager
def shared_artifact(folder: Path, ranks: Ranks, **described: Any) -> Iterator[Path]:
    """Gives every process the working folder of an artifact, which is whole when all have left the block.

    Args:
        folder: The artifact's folder, on a file system that all processes see.
        ranks: The processes.
        described: What `write_artifact` takes.
    """
    if ranks.is_main:
        with write_artifact(folder, **described) as partial:
            ranks.barrier()
            yield partial
            ranks.barrier()
    else:
        ranks.barrier()
        yield working_folder(folder)
        ranks.barrier()
    ranks.barrier()  # behind this the folder is in its place
