"""Removal trials: for every block, the model's last hidden states when that block is bypassed."""

# B samples, T tokens, D hidden, N counted tokens

from collections.abc import Iterator, Sequence

import torch

from minitron.hybrid.samples import Samples
from minitron.hybrid.stack import Block, Stack

Finals = list[torch.Tensor]


def final_states(stack: Stack, batches: Sequence[Samples], layers: Sequence[int]) -> Finals:
    """For each batch the [N, D] hidden states of counted tokens after these blocks and the final norm."""
    masks = [batch.mask(stack.device) for batch in batches]
    streams = [stack.embed(batch.ids(stack.device)) for batch in batches]
    for block in stack.blocks(layers):
        streams = [stack.run([block], stream, mask) for stream, mask in zip(streams, masks, strict=True)]
    return _finish(stack, streams, masks)


def removal_trials(
    stack: Stack, batches: Sequence[Samples], layers: Sequence[int], *, trials_at_once: int
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
    """
    masks = [batch.mask(stack.device) for batch in batches]
    entering = [stack.embed(batch.ids(stack.device)) for batch in batches]
    for first in range(0, len(layers), trials_at_once):
        last = min(first + trials_at_once, len(layers)) - 1
        trials: list[list[torch.Tensor]] = []  # for each trial the stream of each batch
        for position, block in enumerate(stack.blocks(layers[first:]), start=first):
            running = [*trials, entering] if position <= last else trials
            moved = _run_together(stack, block, running, masks)
            if position <= last:
                *moved, after = moved
                trials = [*moved, entering]
                entering = after
            else:
                trials = moved
        for number, trial in enumerate(trials):
            yield first + number, _finish(stack, trial, masks)


def _run_together(
    stack: Stack, block: Block, streams: Sequence[Sequence[torch.Tensor]], masks: Sequence[torch.Tensor | None]
) -> list[list[torch.Tensor]]:
    moved: list[list[torch.Tensor]] = [[] for _ in streams]
    for batch, mask_BT in enumerate(masks):
        together = torch.cat([stream[batch] for stream in streams])
        mask = None if mask_BT is None else mask_BT.repeat(len(streams), 1)
        for own, part in zip(moved, stack.run([block], together, mask).chunk(len(streams)), strict=True):
            own.append(part)
    return moved


def _finish(stack: Stack, streams: Sequence[torch.Tensor], masks: Sequence[torch.Tensor | None]) -> Finals:
    finals = []
    for stream, mask_BT in zip(streams, masks, strict=True):
        normed_BTD = stack.final_norm(stream)
        finals.append(normed_BTD.flatten(0, 1) if mask_BT is None else normed_BTD[mask_BT])
    return finals
