"""How rows over the vocabulary are normalized and summed: whole in one process, or in shards of several."""

# C tokens, V vocabulary or the shard of it that is here

from typing import Any, Protocol

import torch
from torch import distributed

from minitron.distill.loss.divergences.divergence import sum_rows


class Vocabulary(Protocol):
    """Sums over a vocabulary, of which this process may hold a part."""

    def log_softmax(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """[C, V] log-probabilities, new."""

    def row_sum(self, x_CV: torch.Tensor) -> torch.Tensor:
        """[C, 1] sums over the whole vocabulary."""

    def pick(self, x_CV: torch.Tensor, ids_C: torch.Tensor) -> torch.Tensor:
        """[C] each row's value at its token."""

    def subtract_one_(self, x_CV: torch.Tensor, ids_C: torch.Tensor) -> None:
        """Takes 1 from each row's value at its token, in place."""

    def sum_(self, x: torch.Tensor) -> None:
        """Sums what each part of the vocabulary gives, in place."""


class WholeVocabulary:
    """All of the vocabulary is here."""

    def log_softmax(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """[C, V] log-probabilities."""
        return torch.log_softmax(logits_CV, dim=-1)

    def row_sum(self, x_CV: torch.Tensor) -> torch.Tensor:
        """[C, 1] sums."""
        return sum_rows(x_CV)

    def pick(self, x_CV: torch.Tensor, ids_C: torch.Tensor) -> torch.Tensor:
        """[C] each row's value at its token."""
        return x_CV.gather(1, ids_C[:, None]).squeeze(1)

    def subtract_one_(self, x_CV: torch.Tensor, ids_C: torch.Tensor) -> None:
        """Takes 1 from each row's value at its token, in place."""
        x_CV.scatter_add_(1, ids_C[:, None], -torch.ones_like(ids_C[:, None], dtype=x_CV.dtype))

    def sum_(self, x: torch.Tensor) -> None:
        """Nothing: there is one part."""


WHOLE = WholeVocabulary()


class ShardedVocabulary:
    """Consecutive rows of the vocabulary, in the order of the group's processes.

    A token costs four numbers of communication for its normalizers and one for each sum of its divergence.

    Args:
        rows: How many rows are here.
        group: The processes; all when None.
        device: Where numbers are exchanged.
    """

    def __init__(self, rows: int, *, group: Any = None, device: torch.device) -> None:
        self._group = group
        counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(counts, torch.tensor([rows], device=device), group=group)
        self._first = sum(int(count) for count in counts[: distributed.get_rank(group)])
        self._rows = rows

    def log_softmax(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """[C, V] log-probabilities."""
        most_C1 = logits_CV.amax(-1, keepdim=True)
        distributed.all_reduce(most_C1, op=distributed.ReduceOp.MAX, group=self._group)
        shifted_CV = logits_CV - most_C1
        return shifted_CV.sub_(self.row_sum(shifted_CV.exp()).log_())

    def row_sum(self, x_CV: torch.Tensor) -> torch.Tensor:
        """[C, 1] sums over the whole vocabulary."""
        sum_C1 = sum_rows(x_CV)
        distributed.all_reduce(sum_C1, group=self._group)
        return sum_C1

    def pick(self, x_CV: torch.Tensor, ids_C: torch.Tensor) -> torch.Tensor:
        """[C] each row's value at its token."""
        here_C, local_C = self._local(ids_C)
        picked_C1 = (x_CV.gather(1, local_C[:, None]).squeeze(1) * here_C)[:, None]
        distributed.all_reduce(picked_C1, group=self._group)
        return picked_C1.squeeze(1)

    def subtract_one_(self, x_CV: torch.Tensor, ids_C: torch.Tensor) -> None:
        """Takes 1 from each row's value at its token, in place, where it is here."""
        here_C, local_C = self._local(ids_C)
        x_CV.scatter_add_(1, local_C[:, None], -here_C[:, None].to(x_CV.dtype))

    def sum_(self, x: torch.Tensor) -> None:
        """Sums a tensor over the processes that hold parts of the vocabulary, in place."""
        distributed.all_reduce(x, group=self._group)

    def _local(self, ids_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        local_C = ids_C - self._first
        here_C = (local_C >= 0) & (local_C < self._rows)
        return here_C, local_C.clamp(0, self._rows - 1)
