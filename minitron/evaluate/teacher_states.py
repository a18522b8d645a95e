"""A loaded teacher that several students are measured against: what it says of a text is computed once."""

# N tokens that count, T tokens, B sequences of a batch, D hidden

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from minitron.data.masks import LossMask, TokenSequences
from minitron.runtime.backbone import last_hidden_states
from minitron.units import GIB

# The 12B's hidden states of a recipe's 64 sequences of 1024 tokens take 1.25 GiB in fp32.
KEPT_BYTES = 2 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch of held-out text.

    Attributes:
        ids_BT: Its tokens.
        counted_BT: Which of them a loss counts as next ones; None when all.
    """

    ids_BT: TokenSequences
    counted_BT: LossMask | None

    def is_same(self, other: "Batch") -> bool:
        """Whether another batch has these tokens, of which the same count."""
        if self.counted_BT is None or other.counted_BT is None:
            same_mask = self.counted_BT is other.counted_BT
        else:
            same_mask = np.array_equal(self.counted_BT, other.counted_BT)
        return same_mask and np.array_equal(self.ids_BT, other.ids_BT)

    def targets(self, device: torch.device) -> torch.Tensor:
        """[N] the next tokens that count."""
        return self._counted(torch.from_numpy(self.ids_BT).long().to(device)[:, 1:].flatten())

    def hidden(self, model: PreTrainedModel) -> torch.Tensor:
        """[N, D] a model's last hidden states where they predict a token that counts."""
        ids_BT = torch.from_numpy(self.ids_BT).long().to(model.device)
        return self._counted(last_hidden_states(model, ids_BT)[:, :-1].flatten(0, 1))

    def _counted(self, rows: torch.Tensor) -> torch.Tensor:
        if self.counted_BT is None:
            return rows
        return rows[torch.from_numpy(self.counted_BT[:, 1:].flatten()).to(rows.device)]


class TeacherStates:
    """Last hidden states of a teacher, kept in the machine's memory from the first time that a batch is asked for.

    They are what the model computed, bit for bit. A batch that there is no room for is computed each time.

    Args:
        model: The teacher.
        most_bytes: What may be kept in all.

    Attributes:
        model: The teacher.
    """

    def __init__(self, model: PreTrainedModel, *, most_bytes: int = KEPT_BYTES) -> None:
        self.model = model
        self._free = most_bytes
        self._kept: dict[int, tuple[Batch, torch.Tensor]] = {}

    def hidden(self, batch: Batch, first: int) -> torch.Tensor:
        """[N, D] the hidden states of the batch that begins with the text's sequence `first`."""
        found = self._kept.get(first)
        if found is not None and found[0].is_same(batch):
            return found[1].to(self.model.device)
        hidden_ND = batch.hidden(self.model)
        if found is None and hidden_ND.nbytes <= self._free:
            self._free -= hidden_ND.nbytes
            self._kept[first] = batch, hidden_ND.cpu()
        return hidden_ND
