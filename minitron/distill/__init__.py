"""Teacher + student -> recovered student."""

from minitron.distill.divergences import DIVERGENCES, JSD, ForwardKL, ReverseKL
from minitron.distill.loss import Losses, distillation_loss
from minitron.distill.merge import merge_checkpoints
from minitron.distill.mergeable import check_mergeable, interpolation_weights
from minitron.distill.objective import DenseTargets, Objective, Targets, TopTargets

__all__ = [
    "DIVERGENCES",
    "JSD",
    "DenseTargets",
    "ForwardKL",
    "Losses",
    "Objective",
    "ReverseKL",
    "Targets",
    "TopTargets",
    "check_mergeable",
    "distillation_loss",
    "interpolation_weights",
    "merge_checkpoints",
]
