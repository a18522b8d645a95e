"""What a teacher is to distillation: something that says what to match on a batch."""

# B blocks of a batch, T tokens of a block

from typing import Protocol

import torch

from minitron.distill.loss.objective import Targets


class Teacher(Protocol):
    """The one seam between a teacher, wherever it is, and the student's training."""

    def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> Targets:
        """What the student is to match on a batch, row by row of its B * T tokens.

        Args:
            input_ids_BT: Token ids.
            index_B: Positions of the blocks in the stage's text.
        """
