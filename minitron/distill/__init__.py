"""Teacher + student -> recovered student."""

from minitron.distill.loss.chunked import Losses, distillation_loss
from minitron.distill.loss.divergences import DIVERGENCES, JSD, ForwardKL, ReverseKL
from minitron.distill.loss.hidden_states import HIDDEN_LOSSES
from minitron.distill.loss.objective import DenseTargets, Objective, Targets, TopTargets
from minitron.distill.merge import merge_checkpoints
from minitron.distill.mergeable import check_mergeable, interpolation_weights
from minitron.distill.sharding import full_state
from minitron.distill.teachers import (
    CachedTeacher,
    LayerwiseTeacher,
    OnlineTeacher,
    Teacher,
    bytes_per_token,
    open_teacher_cache,
    write_teacher_cache,
)
from minitron.distill.training.model import DistillationModel, HiddenMatch
from minitron.distill.training.stage import DistillRecord, DistillSettings, distill
from minitron.distill.training.trainer import DistillationTrainer, DivergedError

__all__ = [
    "DIVERGENCES",
    "HIDDEN_LOSSES",
    "JSD",
    "CachedTeacher",
    "DenseTargets",
    "DistillRecord",
    "DistillSettings",
    "DistillationModel",
    "DistillationTrainer",
    "DivergedError",
    "ForwardKL",
    "HiddenMatch",
    "LayerwiseTeacher",
    "Losses",
    "Objective",
    "OnlineTeacher",
    "ReverseKL",
    "Targets",
    "Teacher",
    "TopTargets",
    "bytes_per_token",
    "check_mergeable",
    "distill",
    "distillation_loss",
    "full_state",
    "interpolation_weights",
    "merge_checkpoints",
    "open_teacher_cache",
    "write_teacher_cache",
]
