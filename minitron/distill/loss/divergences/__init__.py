"""Divergences between teacher and student, one file each."""

from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.divergences.reverse_kl import ReverseKL

DIVERGENCES: dict[str, type[ForwardKL] | type[ReverseKL] | type[JSD]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jsd": JSD,
}
