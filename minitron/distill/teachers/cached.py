"""Teacher whose logits are read from a cache; no model is run."""

# B sequences of a batch, T tokens a sequence

import torch

from minitron.distill.loss.objective import TopTargets
from minitron.distill.teachers.cache_file import TeacherCache
from minitron.distill.teachers.top_k import join_targets
from minitron.errors import MinitronError


class CachedTeacher:
    """A teacher's most likely tokens as they were written; all others are one outcome, the tail.

    The tail mass is over the first `cache.header.vocab_size` tokens, so a student's loss must be taken over them.

    Args:
        cache: What is read.
        device: Where the targets shall be.
        temperature: The objective's.

    Raises:
        MinitronError: The cache was made at another temperature.
    """

    def __init__(self, cache: TeacherCache, *, device: str | torch.device = "cpu", temperature: float = 1.0) -> None:
        made_at = cache.header.temperature
        if made_at != temperature:
            raise MinitronError(
                f"a cache must be made at the objective's temperature, {cache.folder} is at {made_at} and the "
                f"objective at {temperature}; make the cache again or change the objective"
            )
        self.cache = cache
        self._device = torch.device(device)

    def vocabulary_rows(self, student_rows: int) -> int:
        """Rows of the student's head that the cached probabilities are over; those beyond are padding.

        Raises:
            MinitronError: The cache is over more rows than the student's head has.
        """
        rows = self.cache.header.vocab_size
        if rows > student_rows:
            raise MinitronError(
                f"a cache must be over rows that the student's head has, {self.cache.folder} is over {rows}, the head "
                f"has {student_rows}; make the cache with vocab_size={student_rows}"
            )
        return rows

    def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> TopTargets:
        """The stored targets, in fp32.

        Raises:
            MinitronError: A sequence is not in the cache, is of another text, or was damaged.
        """
        texts = input_ids_BT.cpu().numpy()
        parts = [
            self.cache.read(int(index), ids_T, device=self._device) for index, ids_T in zip(index_B, texts, strict=True)
        ]
        return join_targets(parts)
