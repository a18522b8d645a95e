"""How far a trial's logits are from the original model's, without ever holding the logits of all tokens."""

# N counted tokens, D hidden, V vocabulary, R rows of the head, K trials

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from minitron.runtime.running_softmax import RunningKL
from minitron.runtime.stack import Stack

TILE_TOKENS = 512


class LogitDistance(Protocol):
    """A distance between the original model's logits and trials', summed over tokens."""

    def measure(
        self, reference: Sequence[torch.Tensor], trials: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[torch.Tensor, float]:
        """fp64 [K] sums over all tokens, and what they are to be divided by once all tokens are in.

        Args:
            reference: For each batch the original's [N, D] hidden states after the final norm.
            trials: For each trial and batch the same of the trial.
        """


class SquaredError:
    """Mean square of the difference of the logits (arXiv 2508.14444), or its share of the original's mean square.

    The head W is linear, so |W d|^2 = |F d|^2 with F^T F = W^T W and F only [D, D]: the vocabulary is walked over once,
    when F is made. Source of the normalized form: arXiv 2511.16664.
    """

    def __init__(self, stack: Stack, *, normalized: bool) -> None:
        self._normalized = normalized
        self._factor_DD, self._vocab_size = head_factor(stack)

    def measure(
        self, reference: Sequence[torch.Tensor], trials: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[torch.Tensor, float]:
        """Sums of squares over tokens, each a mean over the vocabulary."""
        totals = [
            sum(self._mean_square(changed - original) for original, changed in zip(reference, trial, strict=True))
            for trial in trials
        ]
        if self._normalized:
            norm = float(sum(self._mean_square(original) for original in reference))
        else:
            norm = float(sum(len(original) for original in reference))
        return torch.tensor(totals, dtype=torch.float64), norm

    def _mean_square(self, x_ND: torch.Tensor) -> float:
        logits_ND = x_ND.float() @ self._factor_DD.T
        return float(torch.linalg.vector_norm(logits_ND, dim=1).double().square().sum()) / self._vocab_size


class KLDivergence:
    """KL(original || trial) of the next-token distributions (arXiv 2504.11409), in nats.

    The head is walked over once a call, a run of rows at a time, with running maxima and sums of exponentials a token.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def measure(
        self, reference: Sequence[torch.Tensor], trials: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[torch.Tensor, float]:
        """Sums of KL over tokens."""
        pairs = [
            [
                (original_ND, changed_ND, RunningKL(len(original_ND), original_ND.device))
                for originals, changeds in zip(reference, trial, strict=True)
                for original_ND, changed_ND in zip(
                    torch.split(originals, TILE_TOKENS), torch.split(changeds, TILE_TOKENS), strict=True
                )
            ]
            for trial in trials
        ]
        for head_RD in self._stack.head():
            for tiles in zip(*pairs, strict=True):
                original_NR = tiles[0][0] @ head_RD.T
                for _, changed_ND, running in tiles:
                    running.add(original_NR, changed_ND @ head_RD.T)
        totals = [sum(float(running.value().sum()) for _, _, running in tiles) for tiles in pairs]
        return torch.tensor(totals, dtype=torch.float64), float(sum(len(original) for original in reference))


def head_factor(stack: Stack) -> tuple[torch.Tensor, int]:
    """(F in fp32 with F^T F = W^T W for the head's weight W [V, D], V).

    W^T W is formed in fp64, a run of rows at a time; F is its Cholesky factor [D, D], or its symmetric root where W
    lacks full rank. A head with no more rows than columns is its own factor.
    """
    size = stack.shape.hidden_size
    if stack.shape.vocab_size <= size:
        return torch.cat([head_RD.float() for head_RD in stack.head()]), stack.shape.vocab_size
    gram_DD = torch.zeros(size, size, dtype=torch.float64, device=stack.device)
    vocab_size = 0
    for head_RD in stack.head():
        rows_RD = head_RD.double()
        gram_DD.addmm_(rows_RD.T, rows_RD)
        vocab_size += len(head_RD)
    factor_DD, failed = torch.linalg.cholesky_ex(gram_DD, upper=True)
    if failed:
        values_D, vectors_DD = torch.linalg.eigh(gram_DD)
        factor_DD = values_D.clamp(min=0).sqrt()[:, None] * vectors_DD.T
    return factor_DD.float(), vocab_size


DISTANCES: dict[str, Callable[[Stack], LogitDistance]] = {
    "logit_mse": lambda stack: SquaredError(stack, normalized=False),
    "logit_nmse": lambda stack: SquaredError(stack, normalized=True),
    "logit_kld": KLDivergence,
}
