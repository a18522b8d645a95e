"""Teacher + student -> recovered student."""

from minitron.distill.loss import forward_kl
from minitron.distill.stage import DistillRecord, DistillSettings, DivergedError, distill

__all__ = ["DistillRecord", "DistillSettings", "DivergedError", "distill", "forward_kl"]
