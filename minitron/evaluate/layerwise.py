"""Loss and KL of models larger than memory: one block of one model is in memory at a time, and a slice of a head.

The numbers are those of `evaluate_text`, to the rounding of fp32 sums.
"""

# N tokens that count, T tokens a sequence, D hidden, R rows of the head

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from minitron.data.masks import PackedSequences, loss_mask
from minitron.distributed import Ranks
from minitron.evaluate.perplexity import TextEvaluation, TextSums, require_predictions
from minitron.progress import track
from minitron.runtime.running_softmax import RunningKL, RunningLogSumExp
from minitron.runtime.stack import Stack
from minitron.runtime.streams import FileStreams, MemoryStreams, Streams

# Hidden states of this many tokens are held at once, and a head is read once for them: 160 MiB in fp32 at 5120 each.
GROUP_TOKENS = 8192
# Logits of this many tokens and of a slice of the head are held at once.
TILE_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStates:
    """What a model says of a text, up to its head's product.

    Attributes:
        stack: The model.
        sequences_NT: The text.
        streams: Of each sequence the [N, D] hidden states, after the final norm, that predict a token that counts.
    """

    stack: Stack
    sequences_NT: PackedSequences
    streams: Streams

    def hidden(self, row: int) -> torch.Tensor:
        """[N, D] hidden states of a sequence."""
        return self.streams.read(row, _end(self.stack))

    def targets(self, row: int) -> torch.Tensor:
        """[N] the next tokens of a sequence that count."""
        ids_n = np.asarray(self.sequences_NT[row])[1:].astype(np.int64)
        return torch.from_numpy(ids_n).to(self.stack.device)[_counted(self, row)]


@torch.no_grad()
def run_text(stack: Stack, sequences_NT: PackedSequences, *, folder: Path | None = None) -> TextStates:
    """Takes a text through a model block by block, each sequence by itself.

    Args:
        stack: The model.
        sequences_NT: The text.
        folder: Where hidden states are kept, N * T * D * 4 bytes and as much again on the way; the caller removes it.
            In memory when None.

    Raises:
        DataError: A sequence has a single token.
    """
    require_predictions(sequences_NT)
    number, layers = len(sequences_NT), range(stack.shape.num_hidden_layers)
    streams: Streams = MemoryStreams(number)
    if folder is not None:
        streams = FileStreams(folder, number, device=stack.device, dtype=stack.dtype, synced=False)
    for row in range(number):
        ids_1T = torch.from_numpy(np.asarray(sequences_NT[row : row + 1]).astype(np.int64))
        streams.write(row, 0, stack.embed(ids_1T.to(stack.device)))
    for position, block in enumerate(track(stack.blocks(layers), "evaluate blocks", total=len(layers))):
        for row in range(number):
            streams.write(row, position + 1, stack.run([block], streams.read(row, position), None))
        streams.settle(position + 1)
    states = TextStates(stack=stack, sequences_NT=sequences_NT, streams=streams)
    for row in range(number):
        normed_1TD = stack.final_norm(streams.read(row, len(layers)))
        streams.write(row, _end(stack), normed_1TD[0, :-1][_counted(states, row)])
    streams.settle(_end(stack))
    return states


@torch.no_grad()
def evaluate_states(
    student: TextStates, *, teacher: TextStates | None = None, ranks: Ranks | None = None
) -> TextEvaluation:
    """Loss of a model on a text, and KL(teacher || model) on the same tokens; see `evaluate_text`.

    Args:
        student: The model's.
        teacher: The teacher's, of the same text.
        ranks: Processes that each have states of their own sequences; this one alone when None.

    Raises:
        DataError: No token counts.
        NotFiniteError: Loss or KL is not finite.
    """
    loss_sum, kl_sum, tokens = 0.0, 0.0, 0
    groups = list(_groups(student))
    for rows in track(groups, "evaluate heads", total=len(groups)):
        tiles = list(_tiles(rows, student, teacher))
        if not tiles:
            continue
        first = 0
        for head_RD, teacher_RD in _heads(student, teacher):
            for tile in tiles:
                tile.add(head_RD, teacher_RD, first)
            first += max(len(head_RD), len(teacher_RD))
        loss_sum += sum(tile.loss() for tile in tiles)
        kl_sum += sum(tile.kl() for tile in tiles)
        tokens += sum(len(tile.targets_N) for tile in tiles)
    sums = TextSums(loss=loss_sum, kl=None if teacher is None else kl_sum, tokens=tokens)
    return sums.over(ranks or Ranks.alone()).mean()


class _Tile:
    """Some tokens, while the heads' rows come slice by slice."""

    def __init__(self, targets_N: torch.Tensor, hidden_ND: torch.Tensor, teacher_ND: torch.Tensor | None) -> None:
        self.targets_N = targets_N
        self._hidden_ND = hidden_ND.float()
        self._teacher_ND = None if teacher_ND is None else teacher_ND.float()
        # Rows of the head that the teacher's has too, and the others.
        self._shared = RunningKL(len(targets_N), targets_N.device)
        self._own = RunningLogSumExp(len(targets_N), targets_N.device)
        self._target_logit_N = torch.zeros_like(self._own.sum_N)

    def add(self, head_RD: torch.Tensor, teacher_RD: torch.Tensor, first: int) -> None:
        """Takes in the slices of both heads that begin at a row; one may have fewer rows, or none."""
        logits_NR = self._hidden_ND @ head_RD.float().T
        at_N = self.targets_N - first
        inside_N = (at_N >= 0) & (at_N < len(head_RD))
        self._target_logit_N[inside_N] = logits_NR[inside_N, at_N[inside_N]].double()
        shared = 0 if self._teacher_ND is None else min(len(head_RD), len(teacher_RD))
        if shared and self._teacher_ND is not None:
            self._shared.add(self._teacher_ND @ teacher_RD[:shared].float().T, logits_NR[:, :shared])
        if shared < len(head_RD):
            self._own.add(logits_NR[:, shared:])

    def loss(self) -> float:
        """Sum of the cross-entropy."""
        return float((torch.logaddexp(self._shared.b.value(), self._own.value()) - self._target_logit_N).sum())

    def kl(self) -> float:
        """Sum of the KL; 0 without a teacher."""
        return 0.0 if self._teacher_ND is None else float(self._shared.value().sum())


def _tiles(rows: range, student: TextStates, teacher: TextStates | None) -> Iterator[_Tile]:
    targets = torch.cat([student.targets(row) for row in rows])
    hidden = torch.cat([student.hidden(row) for row in rows])
    others = None if teacher is None else torch.cat([teacher.hidden(row) for row in rows])
    for first in range(0, len(targets), TILE_TOKENS):
        tile = slice(first, first + TILE_TOKENS)
        yield _Tile(targets[tile], hidden[tile], None if others is None else others[tile])


def _heads(student: TextStates, teacher: TextStates | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Slices of both heads, row by row the same ones; no rows where a head has no more."""
    none_RD = torch.empty(0, 0, device=student.stack.device)
    others: Iterator[torch.Tensor] = iter(()) if teacher is None else teacher.stack.head()
    for head_RD, teacher_RD in zip_longest(student.stack.head(), others):
        if head_RD is None:
            return  # rows that the teacher alone has count for nothing
        yield head_RD, none_RD if teacher_RD is None else teacher_RD


def _groups(states: TextStates) -> Iterator[range]:
    number, width = states.sequences_NT.shape
    step = max(1, GROUP_TOKENS // width)
    yield from (range(first, min(first + step, number)) for first in range(0, number, step))


def _counted(states: TextStates, row: int) -> torch.Tensor:
    """[T-1] which of a sequence's next tokens count."""
    counted_T = loss_mask(states.sequences_NT, row)
    if counted_T is None:
        return torch.ones(states.sequences_NT.shape[1] - 1, dtype=torch.bool, device=states.stack.device)
    return torch.from_numpy(counted_T[1:].copy()).to(states.stack.device)


def _end(stack: Stack) -> int:
    # Positions 0 to L are what enters the blocks and what leaves the last one.
    return stack.shape.num_hidden_layers + 1
