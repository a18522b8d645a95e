"""A nested student as it is trained: what it has of the largest student, and what is its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from minitron.models.nested import NestedStudent


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent:
    """A nested student whose weights are slices of the largest one's plus a correction that does not change.

    Attributes:
        student: What it has of the largest student.
        correction: Name on disk in the student -> what is added to the slice, in fp32: what a repair of its own changed
            before training. Tensors that are not named are slices alone.
    """

    student: NestedStudent
    correction: Mapping[str, torch.Tensor] = field(default_factory=dict)
