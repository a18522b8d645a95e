"""What the processes of a run do together with artifacts: the first one writes folders and hashes files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from minitron.artifacts.artifact import working_folder, write_artifact
from minitron.artifacts.hashes import known_hashes, learn_hashes
from minitron.distributed import Ranks

ResultT = TypeVar("ResultT")


@contextmanager
def shared_artifact(
    folder: Path, ranks: Ranks, *, stage: str, inputs: Mapping[str, object], seed: int
) -> Iterator[Path]:
    """Gives every process the working folder of an artifact, which is whole when all have left the block.

    Args:
        folder: The artifact's folder, on a file system that all processes see.
        ranks: The processes.
        stage: What makes it.
        inputs: Everything that the result depends on.
        seed: Seed of the run.
    """
    if ranks.is_main:
        with write_artifact(folder, stage=stage, inputs=inputs, seed=seed) as partial:
            ranks.barrier()
            yield partial
            ranks.barrier()
    else:
        ranks.barrier()
        yield working_folder(folder)
        ranks.barrier()
    ranks.barrier()  # behind this the folder is in its place


def hash_once(ranks: Ranks, work: Callable[[], ResultT]) -> ResultT:
    """The result of work that hashes files, in every process; the first one reads them, the others take its hashes.

    A file that is in another state for one of the others, on a disk of its own, is hashed there.

    Args:
        ranks: The processes, which all call this.
        work: What hashes files; it must give the same result everywhere.
    """
    if ranks.is_main:
        try:
            return work()
        finally:  # on failure, too: the others fail by themselves then and do not wait
            ranks.broadcast(known_hashes())
    learn_hashes(ranks.broadcast({}))
    return work()
