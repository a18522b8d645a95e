"""Residual streams of teacher and student over the calibration samples, as both advance block by block."""

# B samples, T tokens, D hidden

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from minitron.data.samples import Samples
from minitron.prune.reconstruction.alignment import Alignment
from minitron.runtime.backbone import Block
from minitron.runtime.stack import Stack
from minitron.runtime.streams import FileStreams, MemoryStreams, Streams


class AlignedStreams:
    """The streams of both models, in memory or in files.

    Args:
        pair: The models.
        batches: The samples of this process, batch by batch.
        folder: Where its streams are saved; in memory when None.

    Attributes:
        teacher: The teacher's stream of each batch, as it enters the teacher's next block.
        student: The student's.
    """

    def __init__(self, pair: Alignment, batches: Sequence[Samples], folder: Path | None) -> None:
        self._pair, self._batches, self._folder = pair, batches, folder
        self.teacher = self._open("teacher", pair.teacher)
        self.student = self._open("student", pair.student)

    def scratch(self, name: str, *, of: Literal["teacher", "student"] = "student") -> Streams:
        """Streams of tensors on a model's device that an interrupted call does without."""
        stack = self._pair.teacher if of == "teacher" else self._pair.student
        return self._open(f"scratch-{of}-{name}", stack, synced=False)

    def embed(self) -> None:
        """Writes the streams that enter the first blocks."""
        for streams, stack in ((self.teacher, self._pair.teacher), (self.student, self._pair.student)):
            for number, batch in enumerate(self._batches):
                streams.write(number, 0, stack.embed(batch.ids(stack.device)))

    def advance_teacher(self, block: Block, position: int) -> None:
        """Takes the teacher's streams through its block at a position."""
        for number, mask_BT in self.teacher_masks():
            self.run_teacher(block, number, mask_BT, position)

    def run_teacher(self, block: Block, number: int, mask_BT: torch.Tensor | None, position: int) -> None:
        """Takes one batch of the teacher's streams through its block at a position."""
        before_BTD = self.teacher.read(number, position)
        self.teacher.write(number, position + 1, self._pair.teacher.run([block], before_BTD, mask_BT))

    def run_student(self, block: Block, number: int, mask_BT: torch.Tensor | None, position: int) -> torch.Tensor:
        """[B, T, D] one batch of the student's streams after its block at a position, which is not kept."""
        return self._pair.student.run([block], self.student.read(number, position), mask_BT)

    def teacher_masks(self) -> Iterator[tuple[int, torch.Tensor | None]]:
        """(number, mask on the teacher's device) of every batch."""
        return self._masks(self._pair.teacher)

    def student_masks(self) -> Iterator[tuple[int, torch.Tensor | None]]:
        """(number, mask on the student's device) of every batch."""
        return self._masks(self._pair.student)

    def _masks(self, stack: Stack) -> Iterator[tuple[int, torch.Tensor | None]]:
        yield from ((number, batch.mask(stack.device)) for number, batch in enumerate(self._batches))

    def _open(self, name: str, stack: Stack, *, synced: bool = True) -> Streams:
        if self._folder is None:
            return MemoryStreams(len(self._batches))
        return FileStreams(self._folder / name, len(self._batches), device=stack.device, synced=synced)
