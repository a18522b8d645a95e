"""Random problems of distillation whose dims are all distinct, and the judge of what solves them."""

# N tokens, V vocabulary, D hidden, K outcomes kept of the teacher

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from minitron.distill.loss.chunked import Losses, distillation_loss
from minitron.distill.loss.divergences.divergence import Divergence
from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.divergences.reverse_kl import ReverseKL
from minitron.distill.loss.inputs import LossScope
from minitron.distill.loss.objective import DenseTargets, Objective, Targets, TopTargets
from tests.support.loss_reference import EXTENDED, Reference, as_array, log_softmax, reference

DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": ForwardKL(),
    "reverse_kl": ReverseKL(),
    "jsd": JSD(beta=0.5),
    "jsd-uneven": JSD(beta=0.2),
}
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)
dense_or_top = pytest.mark.parametrize("kept", [None, 5], ids=["dense", "top"])
UPSTREAM = -2.75  # what the total is multiplied by before its gradient is taken
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    student_hidden_ND: torch.Tensor
    student_head_VD: torch.Tensor
    targets: Targets | None
    objective: Objective
    labels_N: torch.Tensor | None = None
    mask_N: torch.Tensor | None = None
    vocab_size: int | None = None

    def reference(self, *, real: Any = EXTENDED) -> Reference:
        return reference(
            self.student_hidden_ND,
            self.student_head_VD,
            self.targets,
            self.objective,
            labels_N=self.labels_N,
            mask_N=self.mask_N,
            vocab_size=self.vocab_size,
            real=real,
        )

    def losses(self, hidden_ND: torch.Tensor, head_VD: torch.Tensor, *, chunk_tokens: int = 512) -> Losses:
        return distillation_loss(
            hidden_ND,
            head_VD,
            self.targets,
            self.objective,
            LossScope(labels_N=self.labels_N, mask_N=self.mask_N, vocab_size=self.vocab_size),
            chunk_tokens=chunk_tokens,
        )

    def solve(self, *, chunk_tokens: int = 512) -> "Solution":
        hidden_ND = self.student_hidden_ND.clone().requires_grad_()
        head_VD = self.student_head_VD.clone().requires_grad_()
        losses = self.losses(hidden_ND, head_VD, chunk_tokens=chunk_tokens)
        hidden_grad_ND, head_grad_VD = torch.autograd.grad(UPSTREAM * losses.total, (hidden_ND, head_VD))
        return Solution(losses=losses, hidden_grad_ND=hidden_grad_ND, head_grad_VD=head_grad_VD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Losses and UPSTREAM times the total's gradients."""

    losses: Losses
    hidden_grad_ND: torch.Tensor
    head_grad_VD: torch.Tensor


def norm(array: Any) -> float:
    return float(np.sqrt((array**2).sum()))


def assert_solves(
    found: Solution, expected: Reference, tolerance: float, *, grad_tolerance: float | None = None
) -> None:
    """Losses and gradients (Frobenius norm) are within a tolerance relative to the reference's own."""
    _assert_within(found, expected, tolerance, grad_tolerance or tolerance, of_terms=False)


def assert_solves_to_rounding(found: Solution, expected: Reference, tolerance: float) -> None:
    """The same, relative to what is summed where that is larger: a single token's terms may cancel."""
    _assert_within(found, expected, tolerance, tolerance, of_terms=True)


def _assert_within(
    found: Solution, expected: Reference, tolerance: float, grad_tolerance: float, *, of_terms: bool
) -> None:
    losses = found.losses
    divergence = float(expected.divergence_terms if of_terms else expected.divergence)
    cross_entropy = float(expected.cross_entropy) + (1.0 if of_terms else 0.0)  # a log-sum and a logit that cancel
    total = (
        abs(divergence) + float(expected.total - expected.divergence) / (expected.cross_entropy or 1) * cross_entropy
    )
    assert abs(losses.divergence.item() - expected.divergence) <= tolerance * divergence
    assert abs(losses.cross_entropy.item() - expected.cross_entropy) <= tolerance * cross_entropy
    assert abs(losses.total.item() - expected.total) <= tolerance * total
    for grad, expected_grad, terms in (
        (found.hidden_grad_ND, expected.hidden_grad_ND, expected.hidden_terms),
        (found.head_grad_VD, expected.head_grad_VD, expected.head_terms),
    ):
        scale = max(norm(expected_grad), float(terms) if of_terms else 0.0)
        error = norm(as_array(grad, EXTENDED) / UPSTREAM - expected_grad)
        assert error <= grad_tolerance * scale, f"relative error {error / (scale or 1):.3g}"


def normal(size: tuple[int, ...], seed: int, dtype: torch.dtype, *, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)


def dense_problem(
    objective: Objective,
    *,
    dtype: torch.dtype = torch.float32,
    tokens: int = 13,
    rows: tuple[int, int] = (31, 31),
    widths: tuple[int, int] = (7, 11),
    seed: int = 0,
    **changes: Any,
) -> Problem:
    """Logits of standard deviation 2; rows and widths are the student's and the teacher's."""
    problem = Problem(
        student_hidden_ND=normal((tokens, widths[0]), 4 * seed, dtype),
        student_head_VD=normal((rows[0], widths[0]), 4 * seed + 1, dtype, scale=2 / widths[0] ** 0.5),
        targets=DenseTargets(
            hidden_ND=normal((tokens, widths[1]), 4 * seed + 2, dtype),
            head_VD=normal((rows[1], widths[1]), 4 * seed + 3, dtype, scale=2 / widths[1] ** 0.5),
        ),
        objective=objective,
    )
    return replace(problem, **changes)


def mixed(divergence: object, **changes: object) -> Objective:
    """A divergence at a temperature that is not 1 and some cross-entropy."""
    return Objective(**{"divergence": divergence, "temperature": 1.6, "cross_entropy": 0.4} | changes)  # type: ignore[arg-type]


def with_kept(problem: Problem, kept: int | None) -> Problem:
    return problem if kept is None else top_of(problem, kept)


def with_labels(problem: Problem, *, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(vocabulary_of(problem), (len(problem.student_hidden_ND),), generator=generator)
    return replace(problem, labels_N=labels_N)


def vocabulary_of(problem: Problem) -> int:
    heads = [len(problem.student_head_VD)]
    if isinstance(problem.targets, DenseTargets):
        heads.append(len(problem.targets.head_VD))
    return problem.vocab_size or min(heads)


def top_of(problem: Problem, kept: int) -> Problem:
    """The same problem told only of the teacher's most likely tokens, in order of their ids."""
    assert isinstance(problem.targets, DenseTargets)
    vocab_size, hidden_ND = vocabulary_of(problem), problem.targets.hidden_ND
    logits_NV = as_array(hidden_ND, EXTENDED) @ as_array(problem.targets.head_VD, EXTENDED)[:vocab_size].T
    log_p_NV = np.stack([log_softmax(row_V / EXTENDED(problem.objective.temperature)) for row_V in logits_NV])
    order_NV = np.argsort(-log_p_NV, axis=1)
    ids_NK, others_NR = np.sort(order_NV[:, :kept], axis=1), order_NV[:, kept:]
    log_tail_N = np.log(np.exp(np.take_along_axis(log_p_NV, others_NR, axis=1)).sum(axis=1))
    targets = TopTargets(
        ids_NK=torch.from_numpy(ids_NK),
        log_probs_NK=_as_tensor(np.take_along_axis(log_p_NV, ids_NK, axis=1), hidden_ND.dtype),
        log_tail_N=_as_tensor(log_tail_N, hidden_ND.dtype),
    )
    return replace(problem, targets=targets, vocab_size=vocab_size)


def _as_tensor(array: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64)).to(dtype)


MASKS: dict[str, Callable[[int], torch.Tensor | None]] = {
    "none is given": lambda _tokens: None,
    "all count": lambda tokens: torch.ones(tokens, dtype=torch.bool),
    "none counts": lambda tokens: torch.zeros(tokens, dtype=torch.bool),
    "one counts": lambda tokens: torch.arange(tokens) == tokens // 2,
    "two of three count": lambda tokens: torch.arange(tokens) % 3 != 0,
    "the second half counts": lambda tokens: torch.arange(tokens) >= tokens // 2,
}


@st.composite
def problems(draw: Callable[..., Any], dtype: torch.dtype) -> tuple[Problem, int]:
    """A problem of any kind and the tokens of a chunk."""
    sizes = st.lists(st.integers(3, 24), min_size=4, max_size=4, unique=True)
    tokens, width, teacher_width, rows = draw(sizes)
    rows, padding = rows + 8, draw(st.sampled_from([(0, 0), (5, 0), (0, 3), (1, 2)]))
    divergence = draw(st.sampled_from([*DIVERGENCES.values(), None]))
    factor = draw(st.sampled_from([0.0, 0.3, 2.0] if divergence else [0.7]))
    temperature = draw(st.sampled_from([1.0, 0.7, 2.5]))
    problem = dense_problem(
        Objective(divergence=divergence, temperature=temperature, cross_entropy=factor),
        dtype=dtype,
        tokens=tokens,
        rows=(rows + padding[0], rows + padding[1]),
        widths=(width, teacher_width),
        seed=draw(st.integers(0, 2**16)),
        mask_N=MASKS[draw(st.sampled_from(sorted(MASKS)))](tokens),
        vocab_size=draw(st.sampled_from([None, rows, rows - 1])),
    )
    if divergence is None:
        problem = replace(problem, targets=None)
    elif draw(st.booleans()):
        problem = top_of(problem, draw(st.integers(2, vocabulary_of(problem) - 1)))
    if factor:
        problem = with_labels(problem, seed=draw(st.integers(0, 99)))
    return problem, draw(st.sampled_from([1, 2, 5, tokens, tokens + 7, 512]))
