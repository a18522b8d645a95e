"""Depth scores: how much each block matters, by what it does to the residual stream or to the logits."""

from minitron.hybrid.quotas import BlockQuotas
from minitron.importance.depth.greedy import LogitDepth, logit_depth
from minitron.importance.depth.influence import BlockInfluence

__all__ = ["BlockInfluence", "BlockQuotas", "LogitDepth", "logit_depth"]
