"""Packed sequences as Trainer reads them: token ids, next tokens (labels), and each sequence's position."""

# B sequences of a batch, T tokens a sequence, N sequences

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from minitron.data.masks import PackedSequences, loss_mask

NOT_COUNTED = -100  # label of a masked token, Hugging Face's ignore_index


class SequenceDataset(Dataset[dict[str, torch.Tensor]]):
    """Sequences in their order, and in further passes in new ones that the seed fixes.

    The position of each token is labeled with the next one, and masked where that one does not count. Of a sequence
    with tokens that do not count, the last position is masked, too: nobody knows whether its next one does.

    Args:
        sequences_NT: Token ids, and which of them count.
        epochs: Passes.
        seed: Fixes the order of the passes but the first.
        next_tokens: The last token of a sequence, whose next one is not known, is masked.
    """

    def __init__(
        self, sequences_NT: PackedSequences, *, epochs: int = 1, seed: int = 0, next_tokens: bool = False
    ) -> None:
        self._sequences_NT = sequences_NT
        self._next_tokens = next_tokens
        self._epochs = epochs
        self._seed = seed
        self._order: tuple[int, npt.NDArray[np.int64]] = (0, np.arange(0))

    def __len__(self) -> int:
        return len(self._sequences_NT) * self._epochs

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        index = self._sequence_at(position)
        ids_T = torch.from_numpy(np.asarray(self._sequences_NT[index]).astype(np.int64))
        labels_T = ids_T.roll(-1)
        if self._next_tokens:
            labels_T[-1] = NOT_COUNTED
        counted_T = loss_mask(self._sequences_NT, index)
        if counted_T is not None and not counted_T.all():
            labels_T[:-1][torch.from_numpy(~counted_T[1:])] = NOT_COUNTED
            labels_T[-1] = NOT_COUNTED
        return {"input_ids": ids_T, "labels": labels_T, "index": torch.tensor(index)}

    def _sequence_at(self, position: int) -> int:
        epoch, place = divmod(position, len(self._sequences_NT))
        if epoch == 0:
            return place
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._sequences_NT)))
        return int(self._order[1][place])


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch [B, T] of samples."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
