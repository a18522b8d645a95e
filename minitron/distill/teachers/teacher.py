"""Interface of a teacher: token ids in, targets out."""

# B sequences of a batch, T tokens a sequence

from typing import Protocol

import torch

from minitron.distill.loss.objective import Targets


class Teacher(Protocol):
    """A source of targets, wherever the teacher runs."""

    def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> Targets:
        """Targets of a batch, row by row of its B * T tokens.

        Args:
            input_ids_BT: Token ids.
            index_B: Positions of the sequences in the phase's text.
        """
