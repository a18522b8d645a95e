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

from minitron.errors import MinitronError, NotFiniteError
from minitron.prune.reconstruction.aligned_streams import AlignedStreams
from minitron.prune.reconstruction.rounding import Rounding, Weights
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.runtime.backbone import Block

logger = logging.getLogger(__name__)

# Of the batches this share is not trained on: it decides which epoch is kept.
HELD_OUT = 1 / 8
WARMUP_STEPS = 10
BETAS = (0.9, 0.95)
# A parameter whose root mean square is smaller moves as if it had this one: biases may be zero.
LEAST_SCALE = 1e-3

# Number of a batch -> [B, T, D] what its stream after the block ought to be.
Wanted = Callable[[int], torch.Tensor]


class BlockRefit:
    """Refits blocks on the streams that enter them, in place; none is left worse than it was on held-out batches.

    The last batches are held out. An epoch is judged after rounding to the dtypes in which weights will be stored, and
    the best one is kept, which may be the start. The order of the batches is the epoch's own, so that a block that is
    refitted again from the same streams ends with the same bits.

    Args:
        streams: The streams of the student that enter a block.
        settings: How many epochs, and the rate.
        rounding: Names and dtypes of weights.

    Raises:
        MinitronError: There are fewer than two batches.
    """

    def __init__(self, streams: AlignedStreams, settings: RepairSettings, rounding: Rounding) -> None:
        count = len(streams.student)
        if count < 2:
            raise MinitronError(
                f"repair.epochs needs two batches of samples or more, the last of which judges the others; got {count} "
                f"with a batch_size of {settings.batch_size}: take more samples or smaller batches"
            )
        self._streams, self._settings, self._rounding = streams, settings, rounding
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
            for _ in self._epochs(parameters, lambda number: self._error(own, position, wanted, number) / start):
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
                loss(number).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
            optimizer.zero_grad()
            yield epoch

    def _held_out_error(self, own: Block, position: int, wanted: Wanted) -> float:
        numbers = range(self._training, len(self._streams.student))
        with torch.no_grad():
            error = sum(float(self._error(own, position, wanted, number)) for number in numbers) / len(numbers)
        if not math.isfinite(error):
            raise NotFiniteError(f"block {position} must give finite values on the calibration text, it does not")
        return error

    def _error(self, own: Block, position: int, wanted: Wanted, number: int) -> torch.Tensor:
        """Mean square of what a batch's stream after the block is off, over counted tokens and channels."""
        mask_BT = self._masks[number]
        after_BTD = self._streams.run_student(own, number, mask_BT, position)
        off_BTD = after_BTD.float() - wanted(number).to(after_BTD.device).float()
        return (off_BTD if mask_BT is None else off_BTD[mask_BT]).square().mean()


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
