"""The processes of a run: which one this is, and the collectives that stages use."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar, cast

import torch
from accelerate import PartialState
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from minitron.errors import MinitronError

ValueT = TypeVar("ValueT")


class OtherProcessFailedError(RuntimeError):
    """Another process failed, not by the user's fault; the message holds its traceback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextGroup:
    """Consecutive processes that hold each sequence together, a part each.

    Attributes:
        rank: This process's place among them, from 0.
        size: Their number; 1 where each process holds whole sequences.
        first: Number of the first of them in the launch.
        data_rank: Place of the group among all groups, which hold different sequences.
        data_size: Number of groups.
        processes: torch's group of them; None where the process holds whole sequences.
    """

    rank: int
    size: int
    first: int
    data_rank: int
    data_size: int
    processes: distributed.ProcessGroup | None

    def process(self, rank: int) -> int:
        """Number in the launch of the process at a place in the group."""
        return self.first + rank


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome(Generic[ValueT]):
    """What a process's work came to: its value, or what it failed with."""

    value: ValueT | None = None
    failure: Exception | None = None

    def result(self) -> ValueT:
        if self.failure is not None:
            raise self.failure
        return cast(ValueT, self.value)


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
        self._context_groups: dict[int, ContextGroup] = {}

    @classmethod
    def alone(cls, device: str = "cpu") -> "Ranks":
        """This process by itself, also where a launcher started it among others, who take no part in what it does."""
        ranks = cls.__new__(cls)
        ranks.rank, ranks.world_size, ranks.device = 0, 1, torch.device(device)
        ranks._context_groups = {}
        return ranks

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    def context_group(self, size: int) -> ContextGroup:
        """The group of so many consecutive processes that this one is in. All processes must call it alike.

        Raises:
            MinitronError: The processes do not make whole groups.
        """
        if self.world_size % size:
            raise MinitronError(
                f"the processes must be a multiple of context_parallel={size}, got {self.world_size}: start as many by "
                "torchrun or accelerate launch"
            )
        if size not in self._context_groups:
            data_rank, rank = divmod(self.rank, size)
            processes = None
            if size > 1:
                dims = (self.world_size // size, size)
                mesh = init_device_mesh(self.device.type, dims, mesh_dim_names=("data", "context"))
                processes = mesh.get_group("context")
            self._context_groups[size] = ContextGroup(
                rank=rank,
                size=size,
                first=self.rank - rank,
                data_rank=data_rank,
                data_size=self.world_size // size,
                processes=processes,
            )
        return self._context_groups[size]

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

    def spread(self, x: torch.Tensor, source: int) -> torch.Tensor:
        """One process's tensor, in each process; the others give one of the same shape and dtype.

        Args:
            x: The tensor, where this process is the source.
            source: Number of the process whose tensor it is.
        """
        if self.world_size == 1:
            return x
        spread = x.to(self.device, copy=True, memory_format=torch.contiguous_format)
        distributed.broadcast(spread, src=source)
        return spread.to(x.device)

    def broadcast(self, value: ValueT) -> ValueT:
        """Rank 0's value, in each process."""
        if self.world_size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def on_main(self, work: Callable[[], ValueT]) -> ValueT:
        """What rank 0's work gives, in each process; the others wait for it. All processes must call it alike.

        Args:
            work: Called by rank 0 alone; it must ask nothing of the other processes.

        Raises:
            MinitronError: The work raises it; so does every process.
            OtherProcessFailedError: Rank 0 failed otherwise; it raises what it failed with.
        """
        if self.world_size == 1:
            return work()
        outcome: _Outcome[ValueT] | None = None
        if self.is_main:
            try:
                outcome = _Outcome(value=work())
            except Exception as error:
                self.broadcast(_Outcome(failure=as_heard(error, self.rank)))
                raise
        heard = self.broadcast(outcome)
        assert heard is not None
        return heard.result()

    def each(self, work: Callable[[], ValueT]) -> list[ValueT]:
        """What every process's own work gives, in the order of ranks, the same in each process.

        Args:
            work: Called by each process; it must ask nothing of the other ones.

        Raises:
            MinitronError: The work of some process raises it; so does every process.
            OtherProcessFailedError: A process failed otherwise; it raises what it failed with.
        """
        if self.world_size == 1:
            return [work()]
        try:
            outcome = _Outcome(value=work())
        except Exception as error:
            self._gather_values(_Outcome(failure=as_heard(error, self.rank)))
            raise
        return [one.result() for one in self._gather_values(outcome)]

    def min(self, number: int) -> int:
        """The smallest of a number over all processes."""
        return min(int(one["number"]) for one in self.gather({"number": torch.tensor(number)}))

    def gather(self, state: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """The tensors of every process, in the order of ranks, the same in each process."""
        if self.world_size == 1:
            return [dict(state)]
        device = next((value.device for value in state.values()), torch.device("cpu"))
        gathered = self._gather_values({name: value.cpu() for name, value in state.items()})
        return [{name: value.to(device) for name, value in one.items()} for one in gathered]

    def _gather_values(self, value: ValueT) -> list[ValueT]:
        gathered = [value] * self.world_size
        distributed.all_gather_object(gathered, value)
        return gathered


def as_heard(error: Exception, rank: int) -> Exception:
    """What other processes raise after one has failed: its fault, or where the bug was."""
    if isinstance(error, MinitronError):
        return error
    where = "".join(traceback.format_exception(error))
    return OtherProcessFailedError(f"process {rank} failed: {type(error).__name__}: {error}\n{where}")
