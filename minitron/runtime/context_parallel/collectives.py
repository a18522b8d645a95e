"""What processes that hold parts of a sequence tell each other, as functions that gradients flow back through.

Every process of a group must call them alike, and use what they give, or the backward pass waits for ever.
"""

# R processes of a group, T tokens of a part

from typing import Any

import torch
from torch import distributed
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F

from minitron.distributed import ContextGroup
from minitron.runtime.context_parallel.part import TextPart


def gather(x: torch.Tensor, group: ContextGroup) -> torch.Tensor:
    """[R, ...] a tensor of each process, of one shape in all; its gradient is the sum of what all give for it."""
    gathered: torch.Tensor = _Gather.apply(x, group)  # type: ignore[no-untyped-call]
    return gathered


def gather_tokens(x_T: torch.Tensor, part: TextPart) -> torch.Tensor:
    """[all tokens, ...] the parts of a sequence put together, from [T, ...] in each process."""
    longest = max(part.lengths)
    padding = [0, 0] * (x_T.ndim - 1) + [0, longest - part.tokens]
    gathered_RT = gather(F.pad(x_T, padding), part.group)
    if min(part.lengths) == longest:
        return gathered_RT.flatten(0, 1)
    return torch.cat([one_T[:tokens] for one_T, tokens in zip(gathered_RT, part.lengths, strict=True)])


def from_previous(x: torch.Tensor, group: ContextGroup) -> torch.Tensor:
    """The previous process's tensor, of the same shape; zeros in the first one."""
    received: torch.Tensor = _FromPrevious.apply(x, group)  # type: ignore[no-untyped-call]
    return received


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: ContextGroup) -> torch.Tensor:
        ctx.group = group
        gathered = x.new_empty((group.size, *x.shape))
        distributed.all_gather(list(gathered), x.contiguous(), group=group.processes)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        own = torch.empty_like(grad[0], memory_format=torch.contiguous_format)
        distributed.reduce_scatter(own, list(grad.contiguous()), group=ctx.group.processes)
        return own, None


class _FromPrevious(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: ContextGroup) -> torch.Tensor:
        ctx.group = group
        return _shift(x, group, to=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _shift(grad, ctx.group, to=-1), None


def _shift(x: torch.Tensor, group: ContextGroup, *, to: int) -> torch.Tensor:
    """Sends a tensor to the process so many places on, and gives what comes from the other side, or zeros."""
    sent, received = x.contiguous(), torch.zeros_like(x, memory_format=torch.contiguous_format)
    receiver, sender = group.rank + to, group.rank - to
    exchange = []
    if 0 <= receiver < group.size:
        exchange.append(distributed.P2POp(distributed.isend, sent, group.process(receiver), group.processes))
    if 0 <= sender < group.size:
        exchange.append(distributed.P2POp(distributed.irecv, received, group.process(sender), group.processes))
    for work in distributed.batch_isend_irecv(exchange):
        work.wait()
    return received
