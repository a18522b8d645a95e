"""The processes of a run: each takes a share of the samples, and what they gather is put together."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed


class Ranks:
    """This process among those that a launcher started (`accelerate launch`, `torchrun`), or alone.

    Attributes:
        index: Number of this process, from 0.
        count: Number of processes.
        device: The device of this process.
    """

    def __init__(self, device: str = "cpu") -> None:
        # Processes meet only when each has done its share, which may take one of them hours longer after a restart.
        state = PartialState(cpu=torch.device(device).type == "cpu", timeout=timedelta(days=30))
        self.index: int = state.process_index
        self.count: int = state.num_processes
        wanted = torch.device(device)
        if self.count == 1 and wanted.type == "cuda" and wanted.index is not None:
            torch.cuda.set_device(wanted)  # what others call "cuda" is this one, too
        self.device: torch.device = wanted if self.count == 1 or wanted.type == "cpu" else state.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            distributed.barrier()

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor summed over all processes, the same in each."""
        if self.count == 1:
            return x
        total = x.to(self.device, copy=True)
        distributed.all_reduce(total)
        return total.to(x.device)

    def least(self, number: int) -> int:
        """The smallest of a number over all processes."""
        return min(int(one["number"]) for one in self.gather({"number": torch.tensor(number)}))

    def gather(self, state: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """The states of all processes in their order, the same in each."""
        if self.count == 1:
            return [dict(state)]
        device = next((value.device for value in state.values()), torch.device("cpu"))
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, {name: value.cpu() for name, value in state.items()})
        return [{name: value.to(device) for name, value in one.items()} for one in gathered]
