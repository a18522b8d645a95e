"""Teacher + student -> recovered student."""

from minitron.distill.loss import forward_kl
from minitron.distill.stage import DistillRecord, DistillSettings, distill

__all__ = ["DistillRecord", "DistillSettings", "distill", "forward_kl"]
