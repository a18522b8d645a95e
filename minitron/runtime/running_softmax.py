"""Log-sum-exp and KL of logits that come a run of columns at a time, so that all of a token's are never held at once.

Exponentials are taken in fp32 relative to a running maximum; maxima and sums are fp64.
"""

# N tokens, R columns of a run

import torch


class RunningLogSumExp:
    """log(sum(exp(logits))) of each token.

    Args:
        tokens: Number of tokens.
        device: Where their logits are.
    """

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.max_N = torch.full((tokens,), -torch.inf, dtype=torch.float64, device=device)
        self.sum_N = torch.zeros_like(self.max_N)

    def add(self, logits_NR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a run of columns in, in fp32.

        Returns:
            [N, R] their exponentials over that of the maximum so far, and fp64 [N] what sums of earlier ones are to be
            multiplied by.
        """
        max_N = torch.maximum(self.max_N, logits_NR.amax(dim=1).double())
        exp_NR = (logits_NR - max_N.float()[:, None]).exp_()
        scale_N = (self.max_N - max_N).exp()
        self.sum_N = self.sum_N * scale_N + exp_NR.sum(dim=1, dtype=torch.float64)
        self.max_N = max_N
        return exp_NR, scale_N

    def value(self) -> torch.Tensor:
        """fp64 [N]; minus infinity before there were any columns."""
        return self.max_N + self.sum_N.log()


class RunningKL:
    """KL of softmax(a) from softmax(b), in nats.

    Args:
        tokens: Number of tokens.
        device: Where their logits are.

    Attributes:
        a: Log-sum-exp of a.
        b: That of b.
    """

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.a, self.b = RunningLogSumExp(tokens, device), RunningLogSumExp(tokens, device)
        self._cross_N = torch.zeros_like(self.a.sum_N)  # sum of exp(a) * (a - b)

    def add(self, a_NR: torch.Tensor, b_NR: torch.Tensor) -> None:
        """Takes a run of columns of both in."""
        a_NR, b_NR = a_NR.float(), b_NR.float()
        a_exp_NR, a_scale_N = self.a.add(a_NR)
        self.b.add(b_NR)
        self._cross_N = self._cross_N * a_scale_N + (a_exp_NR * (a_NR - b_NR)).sum(dim=1, dtype=torch.float64)

    def value(self) -> torch.Tensor:
        """fp64 [N] KL of each token."""
        return self._cross_N / self.a.sum_N - self.a.value() + self.b.value()
