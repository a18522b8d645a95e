"""Removal trials: for every block, the model's last hidden states when that block is bypassed."""

# B samples, T tokens, D hidden, N counted tokens

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from minitron.data.samples import Samples
from minitron.runtime.backbone import Block
from minitron.runtime.stack import Stack

Finals = list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass of some batches through some blocks.

    Attributes:
        finals: For each batch the [N, D] hidden states of counted tokens after the final norm.
        entering: For each block the streams of the batches that enter it; empty when they were not kept.
    """

    finals: Finals
    entering: list[list[torch.Tensor]]


def whole_pass(stack: Stack, batches: Sequence[Samples], layers: Sequence[int], *, keep: bool) -> Pass:
    """Takes batches through blocks, and keeps the streams that enter each block if asked to."""
    masks = [batch.mask(stack.device) for batch in batches]
    streams = [stack.embed(batch.ids(stack.device)) for batch in batches]
    entering = []
    for block in stack.blocks(layers):
        if keep:
            entering.append(streams)
        streams = [stack.run([block], stream, mask) for stream, mask in zip(streams, masks, strict=True)]
    return Pass(finals=_finish(stack, streams, masks), entering=entering)


def removal_trials(
    stack: Stack,
    batches: Sequence[Samples],
    layers: Sequence[int],
    *,
    trials_at_once: int,
    entering: Sequence[list[torch.Tensor]] = (),
) -> Iterator[tuple[int, Finals]]:
    """Yields (position in `layers`, final states of each batch) with the block at that position bypassed.

    A trial starts from the residual stream that enters its block, which is computed once for all trials, and runs the
    blocks after it; trials of one group run through each block in one batch. All trials together cost about half of
    as many whole passes.

    Args:
        stack: The model.
        batches: Samples; all of them go through a block before the next block is taken.
        layers: Blocks that are left, ascending.
        trials_at_once: Trials of a group; memory holds one residual stream for each of them.
        entering: The streams that enter each block, where an earlier pass kept them; else they are computed here.
    """
    masks = [batch.mask(stack.device) for batch in batches]
    stream = [] if entering else [stack.embed(batch.ids(stack.device)) for batch in batches]
    for first in range(0, len(layers), trials_at_once):
        last = min(first + trials_at_once, len(layers)) - 1
        trials: list[list[torch.Tensor]] = []  # for each trial the stream of each batch
        blocks = stack.blocks(layers[first:])
        for position, block in zip(range(first, last + 1), blocks, strict=False):
            advances = not entering and position + 1 < len(layers)
            moved = _run_together(stack, [block], [*trials, stream] if advances else trials, masks)
            after = moved.pop() if advances else stream
            trials = [*moved, entering[position] if entering else stream]
            stream = after
        for some in [list(blocks)] if stack.whole else ([block] for block in blocks):
            trials = _run_together(stack, some, trials, masks)
        for number, trial in enumerate(trials):
            yield first + number, _finish(stack, trial, masks)


def _run_together(
    stack: Stack,
    blocks: Sequence[Block],
    streams: Sequence[list[torch.Tensor]],
    masks: Sequence[torch.Tensor | None],
) -> list[list[torch.Tensor]]:
    moved: list[list[torch.Tensor]] = [[] for _ in streams]
    if not streams or not blocks:
        return list(streams)
    for batch, mask_BT in enumerate(masks):
        together = torch.cat([stream[batch] for stream in streams])
        mask = None if mask_BT is None else mask_BT.repeat(len(streams), 1)
        for own, part in zip(moved, stack.run(blocks, together, mask).chunk(len(streams)), strict=True):
            own.append(part)
    return moved


def _finish(stack: Stack, streams: Sequence[torch.Tensor], masks: Sequence[torch.Tensor | None]) -> Finals:
    finals = []
    for stream, mask_BT in zip(streams, masks, strict=True):
        normed_BTD = stack.final_norm(stream)
        finals.append(normed_BTD.flatten(0, 1) if mask_BT is None else normed_BTD[mask_BT])
    return finals
