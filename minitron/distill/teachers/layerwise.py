"""Teacher larger than memory: a window of sequences at a time runs through the checkpoint block by block."""

# B sequences of a batch, T tokens a sequence, D hidden, V vocabulary

from copy import copy

import numpy as np
import torch

from minitron.data.masks import PackedSequences
from minitron.distill.loss.objective import DenseTargets
from minitron.errors import MinitronError
from minitron.progress import track
from minitron.runtime.stack import LayerwiseStack


class LayerwiseTeacher:
    """Last hidden states of a window of the text, computed with one block of the model in memory at a time.

    The checkpoint is read once a window, so that batches should come in the text's order and windows be as wide as
    memory allows. Held between batches are the window's hidden states, window_sequences * T * D * 4 bytes, and the
    whole head, V * D * 4 bytes (2.5 GiB for 131072 rows of 5120). Sequences of text are run one by one, so that what
    comes out does not depend on where a window begins. Processes share nothing: each reads the checkpoint for itself.

    Args:
        stack: The model.
        sequences_NT: Sequences of the whole phase.
        window_sequences: Sequences of text in a window.

    Raises:
        MinitronError: The window is empty.
    """

    def __init__(self, stack: LayerwiseStack, sequences_NT: PackedSequences, *, window_sequences: int) -> None:
        if window_sequences < 1:
            raise MinitronError(f"window_sequences must be at least 1, got {window_sequences}")
        self._stack = stack
        self._sequences_NT = sequences_NT
        self._window_sequences = window_sequences
        self._first = 0
        self._window: list[torch.Tensor] = []
        self._head_VD = _gather_head(stack)

    def on(self, sequences_NT: PackedSequences) -> "LayerwiseTeacher":
        """The same model on other text, with the head in memory once and a window of its own."""
        other = copy(self)
        other._sequences_NT, other._first, other._window = sequences_NT, 0, []
        return other

    def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> DenseTargets:
        """The last hidden states and the head, in fp32 on the stack's device.

        A sequence outside the window makes the window begin there.

        Raises:
            MinitronError: The batch is not of the phase's text at these positions.
        """
        index = [int(i) for i in index_B]
        self._check(input_ids_BT, index)
        hidden = []
        for i in index:
            if not self._first <= i < self._first + len(self._window):
                self._compute(i)
            hidden.append(self._window[i - self._first])
        return DenseTargets(hidden_ND=torch.cat(hidden), head_VD=self._head_VD)

    def _check(self, input_ids_BT: torch.Tensor, index: list[int]) -> None:
        beyond = [i for i in index if not 0 <= i < len(self._sequences_NT)]
        if beyond:
            raise MinitronError(f"sequences must be among the phase's {len(self._sequences_NT)}, got {beyond[0]}")
        if not np.array_equal(input_ids_BT.cpu().numpy(), np.stack([self._sequences_NT[i] for i in index])):
            raise MinitronError(f"the batch must be of the phase's text, sequences {index} of it are other tokens")

    @torch.no_grad()
    def _compute(self, first: int) -> None:
        # The student's autocast would keep a narrow copy of every block.
        with torch.autocast(self._stack.device.type, enabled=False):
            self._run_window(first)

    def _run_window(self, first: int) -> None:
        self._window = []  # its memory is free before the next one takes as much
        ids_BT = torch.from_numpy(
            np.asarray(self._sequences_NT[first : first + self._window_sequences]).astype(np.int64)
        )
        streams = [self._stack.embed(ids_1T) for ids_1T in torch.split(ids_BT, 1)]
        layers = range(self._stack.shape.num_hidden_layers)
        description = f"teacher on sequences {first} to {first + len(streams) - 1}"
        for block in track(self._stack.blocks(layers), description, total=len(layers)):
            for position, stream_1TD in enumerate(streams):
                streams[position] = self._stack.run([block], stream_1TD, None)
        for position, stream_1TD in enumerate(streams):
            streams[position] = self._stack.final_norm(stream_1TD).squeeze(0)
        self._first, self._window = first, streams


def _gather_head(stack: LayerwiseStack) -> torch.Tensor:
    head_VD = torch.empty(stack.shape.vocab_size, stack.shape.hidden_size, device=stack.device)
    filled = 0
    for rows_ND in stack.head():
        head_VD[filled : filled + len(rows_ND)] = rows_ND
        filled += len(rows_ND)
    return head_VD
