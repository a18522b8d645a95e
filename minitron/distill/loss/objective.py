"""Value types for the objective and the teacher's targets."""

# N tokens, V vocabulary, D hidden of the teacher, K tokens kept of the teacher, M drawn from the tail

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from minitron.distill.loss.divergences.divergence import Divergence
from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.errors import MinitronError

# What picks tokens: a span, or indices.
Rows: TypeAlias = slice | torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """T^2 times a divergence at temperature T, plus a weighted cross-entropy.

    Attributes:
        divergence: Of the student's distribution from the teacher's; None leaves the cross-entropy alone.
        temperature: Softmax temperature T of both; T^2 keeps the gradient's scale (arXiv 1503.02531).
        cross_entropy: Weight of the cross-entropy with the next token, at temperature 1; 0 as published.
    """

    divergence: Divergence | None = field(default_factory=ForwardKL)
    temperature: float = 1.0
    cross_entropy: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise MinitronError(f"temperature must be a positive number, got {self.temperature}")
        if not (math.isfinite(self.cross_entropy) and self.cross_entropy >= 0):
            raise MinitronError(f"cross_entropy must be a number that is not negative, got {self.cross_entropy}")
        if self.divergence is None and self.cross_entropy == 0:
            raise MinitronError("an objective must have a divergence or a cross-entropy, it has neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTargets:
    """The teacher's whole distributions, as what its head reads and its head.

    Attributes:
        hidden_ND: Teacher's last hidden states, after the final norm.
        head_VD: Teacher's `lm_head.weight`.
    """

    hidden_ND: torch.Tensor
    head_VD: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnTokens:
    """Tokens drawn from the teacher's tail, each with its own probability and with replacement.

    Attributes:
        ids_NM: Token ids.
        entropy_N: Entropy of the teacher's distribution over the tail, in nats.
    """

    ids_NM: torch.Tensor
    entropy_N: torch.Tensor

    def rows(self, rows: Rows) -> "DrawnTokens":
        """Some of the tokens."""
        return DrawnTokens(ids_NM=self.ids_NM[rows], entropy_N=self.entropy_N[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class TopTargets:
    """The teacher's most likely tokens; all others are one outcome, whose probability is the tail mass.

    Probabilities are those at the objective's temperature.

    Attributes:
        ids_NK: Token ids, distinct in a row.
        log_probs_NK: Their log-probabilities.
        log_tail_N: Log-probability of all other tokens together.
        drawn: Tokens drawn from them, with which the forward KL is in expectation that over the whole vocabulary.
    """

    ids_NK: torch.Tensor
    log_probs_NK: torch.Tensor
    log_tail_N: torch.Tensor
    drawn: DrawnTokens | None = None

    def rows(self, rows: Rows) -> "TopTargets":
        """Some of the tokens."""
        return TopTargets(
            ids_NK=self.ids_NK[rows],
            log_probs_NK=self.log_probs_NK[rows],
            log_tail_N=self.log_tail_N[rows],
            drawn=None if self.drawn is None else self.drawn.rows(rows),
        )


Targets = DenseTargets | TopTargets
