"""Teacher + student -> recovered student."""

from minitron.distill.distill import DistillRecord, DistillSettings, distill
from minitron.distill.loss import forward_kl

__all__ = ["DistillRecord", "DistillSettings", "distill", "forward_kl"]
