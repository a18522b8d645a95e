"""What the processes of a run do together with artifacts: the first one writes folders and hashes files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from minitron.artifacts.artifact import working_folder, write_artifact
from minitron.distributed import Ranks


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
