"""Refits all parameters of a block at once, by gradient descent on how far its output is from the teacher's stream.

What the closed form does not reach is refitted here, too: norms, convolutions, `A_log`, `D`, `dt_bias`, routers,
experts, and projections together with what lies between them. No vocabulary is involved, and one block of each model
is in memory, with four times its parameters: their gradients, two moments, and the best epoch's values.
"""

# B samples, T tokens, D hidden

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from minitron.distributed import Ranks
from minitron.errors import MinitronError, NotFiniteError
from minitron.prune.reconstruction.aligned_streams import AlignedStreams
from minitron.prune.reconstruction.rounding import Rounding, Weights
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.shares import Share
from minitron.runtime.backbone import Block

logger = logging.getLogger(__name__)

# Of the batches this share is not trained on: it decides which epoch is kept.
HELD_OUT = 1 / 8
WARMUP_STEPS = 10
BETAS = (0.9, 0.95)
# A parameter whose root mean square is smaller moves as if it had this one: biases may be zero.
LEAST_SCALE = 1e-3

# Number of one of the process's batches -> [B, T, D] what its stream after the block ought to be.
Wanted = Callable[[int], torch.Tensor]


class BlockRefit:
    """Refits blocks on the streams that enter them, in place; none is left worse than it was on held-out batches.

    The last batches are held out. An epoch is judged after rounding to the dtypes in which weights will be stored, and
    the best one is kept, which may be the start. The order of the batches is the epoch's own, so that a block that is
    refitted again from the same streams ends with the same bits.

    Several processes take each step together: every one has its samples of each batch, and gradients are those of the
    whole batch. So are errors, by which all keep the same epoch.

    Args:
        streams: The streams of the student that enter a block.
        share: The process's samples of every batch.
        settings: How many epochs, and the rate.
        rounding: Names and dtypes of weights.

    Raises:
        MinitronError: There are fewer than two batches.
    """

    def __init__(self, streams: AlignedStreams, share: Share, settings: RepairSettings, rounding: Rounding) -> None:
        count = len(share.num_tokens)
        if count < 2:
            raise MinitronError(
                f"repair.epochs needs two batches of samples or more, the last of which judges the others; got {count} "
                f"with a batch_size of {settings.batch_size}: take more samples or smaller batches"
            )
        self._streams, self._settings, self._rounding = streams, settings, rounding
        self._ranks, self._num_tokens = share.ranks, share.num_tokens
        self._own = {number: at for at, number in enumerate(share.numbers)}
        self._training = count - max(1, round(count * HELD_OUT))
        self._masks = dict(streams.student_masks())

    def refit(self, own: Block, position: int, wanted: Wanted) -> Weights:
        """Refits a block in place; its weights by name on disk, or nothing where no epoch was better than the start.

        Raises:
            NotFiniteError: The block overflows.
        """
        parameters = list(own[1].parameters())
        start = least = self._held_out_error(own, position, wanted)
        if start == 0:
            return {}
        best = _copies(parameters)
        with torch.enable_grad(), _requiring_gradients(parameters):
            for _ in self._epochs(parameters, lambda number: self._own_error(own, position, wanted, number) / start):
                exact = _copies(parameters)
                with torch.no_grad():
                    self._rounding.round_block(own, position)
                    error = self._held_out_error(own, position, wanted)
                    if error < least:
                        least, best = error, _copies(parameters)
                    _put(parameters, exact)
        _put(parameters, best)
        logger.info("block %d: held-out squared error %.4g refitted to %.4g", position, start, least)
        if least == start:
            return {}
        for parameter in parameters:  # steps on other hardware may have been rounded otherwise
            parameter.copy_(self._ranks.spread(parameter.detach(), 0))
        return {name: weight.clone() for name, weight in self._rounding.weights_of(own, position).items()}

    def _epochs(self, parameters: Sequence[nn.Parameter], loss: Callable[[int], torch.Tensor]) -> Iterator[int]:
        """Trains for an epoch, then gives its number, again and again."""
        scales = [float(x.detach().float().square().mean().sqrt().clamp(min=LEAST_SCALE)) for x in parameters]
        optimizer = torch.optim.Adam([{"params": [x]} for x in parameters], betas=BETAS)
        steps, step = self._settings.epochs * self._training, 0
        for epoch in range(self._settings.epochs):
            order = torch.randperm(self._training, generator=torch.Generator().manual_seed(epoch))
            for number in order.tolist():
                rate = self._settings.rate * _schedule(step, steps)
                for group, scale in zip(optimizer.param_groups, scales, strict=True):
                    group["lr"] = rate * scale
                optimizer.zero_grad()
                if number in self._own:
                    loss(number).backward()  # type: ignore[no-untyped-call]
                sum_gradients(parameters, self._ranks)
                optimizer.step()
                step += 1
            optimizer.zero_grad()
            yield epoch

    def _held_out_error(self, own: Block, position: int, wanted: Wanted) -> float:
        numbers = range(self._training, len(self._num_tokens))
        with torch.no_grad():
            own_sum = sum(
                float(self._own_error(own, position, wanted, number)) for number in numbers if number in self._own
            )
        total = self._ranks.sum(torch.tensor(own_sum, dtype=torch.float64))
        error = self._ranks.broadcast(float(total)) / len(numbers)
        if not math.isfinite(error):
            raise NotFiniteError(f"block {position} must give finite values on the calibration text, it does not")
        return error

    def _own_error(self, own: Block, position: int, wanted: Wanted, number: int) -> torch.Tensor:
        """This process's part of a mean square: of what a batch's stream after the block is off.

        Its sum over all processes is the mean over the counted tokens of the whole batch, and over channels.
        """
        at = self._own[number]
        mask_BT = self._masks[at]
        after_BTD = self._streams.run_student(own, at, mask_BT, position)
        off_BTD = after_BTD.float() - wanted(at).to(after_BTD.device).float()
        counted = off_BTD if mask_BT is None else off_BTD[mask_BT]
        return counted.square().sum() / (self._num_tokens[number] * off_BTD.shape[-1])


def sum_gradients(parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
    """Sums gradients over all processes, in place; what no process has a gradient of is left without one."""
    if ranks.world_size == 1:
        return
    has = ranks.sum(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int64))
    for parameter, count in zip(parameters, has.tolist(), strict=True):
        if count:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = ranks.sum(own)


def _schedule(step: int, steps: int) -> float:
    """Share of the full rate: a short warm-up into a cosine to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _copies(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def _put(parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@contextmanager
def _requiring_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)
            parameter.grad = None
