"""What checkpoints are measured on, and what they are measured against."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from minitron.distributed import Ranks
from minitron.estimate.serving.workload import Workload
from minitron.evaluate.metrics import Metrics
from minitron.models.axes import Indices
from minitron.pipeline.context import Execution
from minitron.recipe.evaluate import EvaluateSection
from minitron.runtime.dtypes import torch_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What checkpoints are measured on, and where.

    Attributes:
        section: Text, task and speed.
        workload: What the bytes are for.
        execution: The device, and the seed of the text's order.
        ranks: Processes that share the text out, each with models of its own.
    """

    section: EvaluateSection
    workload: Workload
    execution: Execution
    ranks: Ranks = field(default_factory=Ranks.alone)

    @property
    def dtype(self) -> torch.dtype:
        """What the models are held in."""
        return torch_dtype(self.section.dtype_on(self.execution.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTeacher:
    """The checkpoint that KL is measured to.

    Attributes:
        folder: The checkpoint.
        kept: Its ids that students have, in their order, where their vocabulary was cut from it; None where it is one.
    """

    folder: Path
    kept: Indices | None = None


class Evaluation(Protocol):
    """Measures checkpoints one after the other against one teacher, or none."""

    def measure(self, folder: Path) -> Metrics:
        """Metrics of a checkpoint; the teacher itself may be one."""
