"""The processes of a run: which one this is, and the collectives that stages use."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import distributed

ValueT = TypeVar("ValueT")


class Ranks:
    """This process among those that a launcher started (`accelerate launch`, `torchrun`), or alone.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        device: The device of this process.
    """

    def __init__(self, device: str = "cpu") -> None:
        # Processes meet only when each has done its share, which may take one of them hours longer after a restart.
        state = PartialState(cpu=torch.device(device).type == "cpu", timeout=timedelta(days=30))
        self.rank: int = state.process_index
        self.world_size: int = state.num_processes
        wanted = torch.device(device)
        if self.world_size == 1 and wanted.type == "cuda" and wanted.index is not None:
            torch.cuda.set_device(wanted)  # code that says only "cuda" means this one, too
        self.device: torch.device = wanted if self.world_size == 1 or wanted.type == "cpu" else state.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Returns when every process has come here."""
        if self.world_size > 1:
            distributed.barrier()

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor summed over all processes, the same in each."""
        if self.world_size == 1:
            return x
        total = x.to(self.device, copy=True)
        distributed.all_reduce(total)
        return total.to(x.device)

    def broadcast(self, value: ValueT) -> ValueT:
        """Rank 0's value, in each process."""
        if self.world_size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def min(self, number: int) -> int:
        """The smallest of a number over all processes."""
        return min(int(one["number"]) for one in self.gather({"number": torch.tensor(number)}))

    def gather(self, state: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """The tensors of every process, in the order of ranks, the same in each process."""
        if self.world_size == 1:
            return [dict(state)]
        device = next((value.device for value in state.values()), torch.device("cpu"))
        on_cpu = {name: value.cpu() for name, value in state.items()}
        gathered: list[dict[str, torch.Tensor]] = [{}] * self.world_size
        distributed.all_gather_object(gathered, on_cpu)
        return [{name: value.to(device) for name, value in one.items()} for one in gathered]
