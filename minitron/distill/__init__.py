"""Teacher + student -> recovered student."""

from minitron.distill.divergences import DIVERGENCES, JSD, ForwardKL, ReverseKL
from minitron.distill.loss import Losses, distillation_loss
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
    "distillation_loss",
]
