"""An artefact that several processes make together: the first one opens and closes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minitron.hybrid.artefact import working_folder, write_artefact
from minitron.hybrid.ranks import Ranks


@contextmanager
def shared_artefact(folder: Path, ranks: Ranks, **described: Any) -> Iterator[Path]:
    """Gives every process the working folder of an artefact, which is whole when all have left the block.

    Args:
        folder: The artefact's folder, on a file system that all processes see.
        ranks: The processes.
        described: What `write_artefact` takes.
    """
    if ranks.is_first:
        with write_artefact(folder, **described) as partial:
            ranks.wait()
            yield partial
            ranks.wait()
    else:
        ranks.wait()
        yield working_folder(folder)
        ranks.wait()
    ranks.wait()  # behind this the folder is in its place
