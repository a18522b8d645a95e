"""The residual streams of many batches between two blocks, in memory or in files."""

import os
from pathlib import Path

import numpy as np
import torch

from minitron.errors import MinitronError


class MemoryStreams:
    """Residual streams held in memory."""

    def __init__(self, num_batches: int) -> None:
        self._batches: list[torch.Tensor | None] = [None] * num_batches

    def __len__(self) -> int:
        return len(self._batches)

    def read(self, batch: int, position: int) -> torch.Tensor:
        """The stream of a batch as it enters the block at a position."""
        stream = self._batches[batch]
        if stream is None:
            raise MinitronError(f"the stream of batch {batch} at block {position} was never written")
        return stream

    def write(self, batch: int, position: int, stream_BTD: torch.Tensor) -> None:
        """Keeps the stream of a batch as it enters the block at a position."""
        self._batches[batch] = stream_BTD

    def settle(self, position: int) -> None:
        """Forgets all positions but this one; with -1 everything."""
        if position == -1:
            self._batches = [None] * len(self._batches)


class FileStreams:
    """Residual streams in a folder, one file a batch and position, so that an interrupted block can be run again.

    Each access holds one batch in memory; nothing stays mapped, so the process's memory does not grow with the text.

    Args:
        folder: Where the files lie.
        num_batches: Number of batches.
        device: Where tensors are read to.
        dtype: What tensors are read as; files hold fp32.
        synced: Whether a file that was written outlives the machine's crash; what no later call reads need not.
    """

    def __init__(
        self,
        folder: Path,
        num_batches: int,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        synced: bool = True,
    ) -> None:
        self._folder = folder
        self._num_batches = num_batches
        self._device = device
        self._dtype = dtype
        self._synced = synced
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return self._num_batches

    def read(self, batch: int, position: int) -> torch.Tensor:
        """The stream of a batch as it enters the block at a position."""
        return torch.from_numpy(np.load(self._file(batch, position))).to(self._device, self._dtype)

    def write(self, batch: int, position: int, stream_BTD: torch.Tensor) -> None:
        """Keeps the stream of a batch as it enters the block at a position."""
        with self._file(batch, position).open("wb") as file:
            np.save(file, stream_BTD.float().cpu().numpy())
            if self._synced:
                file.flush()
                os.fsync(file.fileno())

    def settle(self, position: int) -> None:
        """Removes the files of all positions but this one; with -1 all of them."""
        keep = {self._file(batch, position) for batch in range(self._num_batches)}
        for path in self._folder.glob("*.npy"):
            if path not in keep:
                path.unlink()

    def _file(self, batch: int, position: int) -> Path:
        return self._folder / f"batch{batch:06d}-block{position:04d}.npy"


Streams = MemoryStreams | FileStreams
