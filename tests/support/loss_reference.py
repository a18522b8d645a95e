"""The distillation losses and their gradients in numpy, a token at a time, as the definitions read; no autograd."""

# N tokens, V vocabulary, D hidden, K outcomes kept of the teacher, X outcomes: V or K + 1

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minitron.distill.loss.divergences.divergence import Divergence
from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.divergences.reverse_kl import ReverseKL
from minitron.distill.loss.objective import DenseTargets, Objective, Targets

Array = Any

EXTENDED = np.longdouble
"""64 bits of mantissa on x86, so that fp64 can be held to 1e-12; no fast products, so for small sizes only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Losses, the total's gradients, and what their rounding is relative to: the terms before they cancel.

    Attributes:
        divergence_terms: The divergence with every term taken positive.
        hidden_terms: Frobenius norm of the hidden states' gradient with every term's square summed instead.
        head_terms: The same of the head's.
    """

    total: float
    divergence: float
    cross_entropy: float
    hidden_grad_ND: Array
    head_grad_VD: Array
    divergence_terms: float
    hidden_terms: float
    head_terms: float


def as_array(tensor: torch.Tensor, real: Any) -> Array:
    return tensor.detach().double().numpy().astype(real)


def reference(
    student_hidden_ND: torch.Tensor,
    student_head_VD: torch.Tensor,
    targets: Targets | None,
    objective: Objective,
    *,
    labels_N: torch.Tensor | None = None,
    mask_N: torch.Tensor | None = None,
    vocab_size: int | None = None,
    real: Any = EXTENDED,
) -> Reference:
    """Sums over the counted tokens, and their gradients by the student's hidden states and head."""
    hidden_ND, head_VD = as_array(student_hidden_ND, real), as_array(student_head_VD, real)
    heads = [len(head_VD)] + ([len(targets.head_VD)] if isinstance(targets, DenseTargets) else [])
    head_grad_VD, head_VD = np.zeros_like(head_VD), head_VD[: vocab_size or min(heads)]
    hidden_grad_ND = np.zeros_like(hidden_ND)
    teacher_head_VD = as_array(targets.head_VD, real)[: len(head_VD)] if isinstance(targets, DenseTargets) else None
    temperature, factor = real(objective.temperature), real(objective.cross_entropy)
    divergence = cross_entropy = terms = hidden_squares = head_squares = real(0)
    for token in range(len(hidden_ND)):
        if mask_N is not None and not mask_N[token]:
            continue
        logits_V = head_VD @ hidden_ND[token]
        grad_V, grad_terms_V = np.zeros_like(logits_V), np.zeros_like(logits_V)
        if objective.divergence is not None:
            assert targets is not None
            log_p_X, outcome_V = teacher_of(targets, teacher_head_VD, token, temperature, len(head_VD))
            log_q_V = log_softmax(logits_V / temperature)
            terms_X, own_V, shared_V = divergence_of(objective.divergence, log_p_X, log_q_V, outcome_V)
            divergence += temperature**2 * terms_X.sum()
            terms += temperature**2 * np.abs(terms_X).sum()
            grad_V += temperature * (own_V - shared_V)  # T^2, and 1/T by the chain rule
            grad_terms_V += temperature * (np.abs(own_V) + np.abs(shared_V))
        if factor:
            assert labels_N is not None
            log_q_V, label = log_softmax(logits_V), int(labels_N[token])
            cross_entropy -= log_q_V[label]
            is_label_V = np.arange(len(log_q_V)) == label
            grad_V += factor * (np.exp(log_q_V) - is_label_V)
            grad_terms_V += factor * (np.exp(log_q_V) + is_label_V)
        hidden_grad_ND[token] = grad_V @ head_VD
        head_grad_VD[: len(head_VD)] += np.outer(grad_V, hidden_ND[token])
        hidden_squares += (grad_terms_V**2 @ head_VD**2).sum()
        head_squares += (grad_terms_V**2).sum() * (hidden_ND[token] ** 2).sum()
    return Reference(
        total=divergence + factor * cross_entropy,
        divergence=divergence,
        cross_entropy=cross_entropy,
        hidden_grad_ND=hidden_grad_ND,
        head_grad_VD=head_grad_VD,
        divergence_terms=terms,
        hidden_terms=np.sqrt(hidden_squares),
        head_terms=np.sqrt(head_squares),
    )


def teacher_of(
    targets: Targets, head_VD: Array | None, token: int, temperature: Any, vocab_size: int
) -> tuple[Array, Array]:
    """The teacher's log-probabilities [X] of its outcomes, and which outcome each token of the vocabulary is [V]."""
    real = type(temperature)
    if isinstance(targets, DenseTargets):
        logits_V = head_VD @ as_array(targets.hidden_ND[token], real)
        return log_softmax(logits_V / temperature), np.arange(vocab_size)
    ids_K = targets.ids_NK[token].tolist()
    outcome_V = np.full(vocab_size, len(ids_K))
    outcome_V[ids_K] = np.arange(len(ids_K))
    log_p_K, log_rest = as_array(targets.log_probs_NK[token], real), as_array(targets.log_tail_N[token], real)
    return np.append(log_p_K, log_rest), outcome_V


def log_softmax(logits_V: Array) -> Array:
    shifted_V = logits_V - logits_V.max()
    return shifted_V - np.log(np.exp(shifted_V).sum())


def divergence_of(
    divergence: Divergence, log_p_X: Array, log_q_V: Array, outcome_V: Array
) -> tuple[Array, Array, Array]:
    """Terms [X] whose sum D(p, r) is, r being q summed over each outcome's tokens, and the two parts of dD/dz [V].

    With q = softmax(z), dr_x/dz_v is q_v - r_x q_v when v is of outcome x, and -r_x q_v otherwise, so that with slopes
    s_x = r_x dD/dr_x it is dD/dz_v = q_v / r_x(v) s_x(v) - q_v sum_x s_x.
    """
    log_r_X = np.full_like(log_p_X, -np.inf)
    np.logaddexp.at(log_r_X, outcome_V, log_q_V)
    terms_X, slopes_X = TERMS[type(divergence)](divergence, log_p_X, log_r_X)
    share_V = np.exp(log_q_V - log_r_X[outcome_V])
    return terms_X, share_V * slopes_X[outcome_V], np.exp(log_q_V) * slopes_X.sum()


def _forward_kl(_divergence: Divergence, log_p_X: Array, log_r_X: Array) -> tuple[Array, Array]:
    p_X = np.exp(log_p_X)
    return _times(p_X, log_p_X - log_r_X), -p_X


def _reverse_kl(_divergence: Divergence, log_p_X: Array, log_r_X: Array) -> tuple[Array, Array]:
    r_X = np.exp(log_r_X)
    terms_X = _times(r_X, log_r_X - log_p_X)
    return terms_X, terms_X + r_X


def _jsd(divergence: Any, log_p_X: Array, log_r_X: Array) -> tuple[Array, Array]:
    """dD/dr is (1 - beta) log(r / m): what else the chain rule through m gives cancels, since beta p + (1-beta) r = m.

    The two parts of a term are left apart, so that their absolute sum says what cancels.
    """
    beta = type(log_r_X[0])(divergence.beta)
    p_X, r_X = np.exp(log_p_X), np.exp(log_r_X)
    log_m_X = np.logaddexp(np.log(beta) + log_p_X, np.log(1 - beta) + log_r_X)
    p_terms_X = _times(beta * p_X, log_p_X - log_m_X)
    r_terms_X = _times((1 - beta) * r_X, log_r_X - log_m_X)
    return np.concatenate([p_terms_X, r_terms_X]), r_terms_X


TERMS = {ForwardKL: _forward_kl, ReverseKL: _reverse_kl, JSD: _jsd}


def _times(weight_X: Array, log_ratio_X: Array) -> Array:
    """Their product, with 0 log 0 = 0."""
    return np.where(weight_X == 0, 0, weight_X * np.where(weight_X == 0, 0, log_ratio_X))


def cosine_reference(student_ND: torch.Tensor, teacher_ND: torch.Tensor, mask_N: torch.Tensor) -> tuple[float, Array]:
    """The sum over counted tokens of 1 - cos(s, t), and its gradient (cos(s, t) s/|s| - t/|t|) / |s|."""
    loss, grad_ND = 0.0, np.zeros(student_ND.shape)
    for token in np.flatnonzero(mask_N.numpy()):
        student_D, teacher_D = as_array(student_ND[token], np.float64), as_array(teacher_ND[token], np.float64)
        length = np.sqrt((student_D**2).sum())
        student_D, teacher_D = student_D / length, teacher_D / np.sqrt((teacher_D**2).sum())
        cosine = (student_D * teacher_D).sum()
        loss += 1 - cosine
        grad_ND[token] = (cosine * student_D - teacher_D) / length
    return loss, grad_ND


def mse_reference(student_ND: torch.Tensor, teacher_ND: torch.Tensor, mask_N: torch.Tensor) -> tuple[float, Array]:
    """The sum over counted tokens of the mean over D of squared differences, and its gradient."""
    difference_ND = as_array(student_ND, np.float64) - as_array(teacher_ND, np.float64)
    difference_ND[~mask_N.numpy()] = 0
    width = difference_ND.shape[1]
    return (difference_ND**2).sum() / width, 2 * difference_ND / width
