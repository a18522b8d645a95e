"""A pruned student beside its teacher: which teacher block each of its blocks is, and what it is fitted to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from minitron.errors import ShapeError
from minitron.prune.plan import PrunePlan
from minitron.runtime.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Teacher and student, aligned by the plan that led from one to the other.

    Attributes:
        teacher: What was pruned.
        student: What the plan left of it, with its sliced weights.
        plan: What survived.
        target: What the stream after a kept block is fitted to when the blocks behind it were removed: the teacher's
            stream after them, as the next kept block received it, or right after the kept block.
        origin: What the teacher's weights come from, so that a saved state of other ones is left aside.

    Raises:
        ShapeError: A stack is not of the plan's shape.
    """

    teacher: Stack
    student: Stack
    plan: PrunePlan
    target: Literal["after_removed", "after_block"] = "after_removed"
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = (("teacher", self.teacher, self.plan.source), ("student", self.student, self.plan.target))
        for name, stack, shape in pairs:
            if stack.shape != shape:
                raise ShapeError(f"the {name} must have the plan's shape {shape}, it has {stack.shape}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The teacher's block that each of the student's blocks was."""
        return self.plan.keep.layers

    @property
    def ends(self) -> tuple[int, ...]:
        """For each of the student's blocks, how many of the teacher's blocks its target stream has passed."""
        if self.target == "after_block":
            return tuple(layer + 1 for layer in self.layers)
        return (*self.layers[1:], self.plan.source.num_hidden_layers)
