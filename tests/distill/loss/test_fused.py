import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from minitron.distill.loss.divergences.divergence import Divergence
from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.divergences.reverse_kl import ReverseKL
from minitron.distill.loss.objective import Objective
from tests.support.paths import ROOT

pytest.importorskip("triton", reason="triton is not installed, `make test-kernels` installs it")

from minitron.distill.loss.fused import fused_rows_, has_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIVERGENCES = [ForwardKL(), ReverseKL(), JSD(), JSD(beta=0.15)]
# Less than a block, a block and a bit, and exactly two blocks.
C, COLUMNS = 3, [37, 2051, 4096]


@dataclass(frozen=True)
class Rows:
    student: torch.Tensor
    teacher: torch.Tensor
    labels: torch.Tensor


def make_rows(columns: int, *, scale: float = 2.0, seed: int = 0, tokens: int = C) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, tokens, columns, generator=generator) * scale).to(DEVICE)
    return Rows(student, teacher, torch.randint(columns, (tokens,), generator=generator).to(DEVICE))


def textbook(rows: Rows, objective: Objective) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses, cross-entropies and gradient in fp64 from the formulas as published, by autograd."""
    logits = rows.student.double().requires_grad_()
    log_q = F.log_softmax(logits / objective.temperature, dim=-1)
    log_p = F.log_softmax(rows.teacher.double() / objective.temperature, dim=-1)

    def kl(log_a: torch.Tensor, log_b: torch.Tensor) -> torch.Tensor:
        return (log_a.exp() * (log_a - log_b)).sum(-1)

    match objective.divergence:
        case None:
            losses = 0 * logits.sum(-1)
        case ForwardKL():
            losses = kl(log_p, log_q)
        case ReverseKL():
            losses = kl(log_q, log_p)
        case JSD(beta=beta):
            log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
            losses = beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)
    losses = losses * objective.temperature**2
    cross_entropies = F.cross_entropy(logits, rows.labels, reduction="none")
    (grad,) = torch.autograd.grad((losses + objective.cross_entropy * cross_entropies).sum(), logits)
    return losses.detach(), (cross_entropies if objective.cross_entropy else 0 * losses).detach(), grad


def assert_is_textbook(rows: Rows, objective: Objective, *, loss_atol: float = 0.0) -> None:
    expected_losses, expected_cross_entropies, expected_grad = textbook(rows, objective)
    grad = rows.student.clone()
    teacher = rows.teacher if objective.divergence else None
    losses, cross_entropies = fused_rows_(grad, teacher, objective, rows.labels if objective.cross_entropy else None)
    torch.testing.assert_close(losses.double(), expected_losses, rtol=1e-6, atol=loss_atol)
    torch.testing.assert_close(cross_entropies.double(), expected_cross_entropies, rtol=1e-6, atol=0)
    assert (grad - expected_grad).norm() <= 1e-6 * expected_grad.norm()


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize(("temperature", "cross_entropy"), [(1.0, 0.0), (1.0, 0.3), (0.7, 0.0), (2.5, 0.3)])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_losses_and_gradient_equal_the_textbook_in_fp64(
    divergence: Divergence, temperature: float, cross_entropy: float, columns: int
) -> None:
    objective = Objective(divergence=divergence, temperature=temperature, cross_entropy=cross_entropy)
    assert_is_textbook(make_rows(columns), objective)


@pytest.mark.parametrize("columns", COLUMNS)
def test_cross_entropy_alone_equals_the_textbook_at_any_temperature(columns: int) -> None:
    assert_is_textbook(make_rows(columns), Objective(divergence=None, temperature=2.5, cross_entropy=0.6))


@pytest.mark.parametrize("temperature", [1, 3])
def test_whole_numbers_of_settings_are_numbers_too(temperature: int) -> None:
    assert_is_textbook(make_rows(37), Objective(temperature=temperature, cross_entropy=1))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_logits_of_ten_thousand_are_exact(divergence: Divergence, temperature: float) -> None:
    rows = make_rows(4099)
    generator = torch.Generator().manual_seed(1)
    far = (torch.randint(2, (2, C, 4099), generator=generator) * 2e4 - 1e4).to(DEVICE)
    rows = Rows(rows.student + far[0], rows.teacher + far[1], rows.labels)
    assert_is_textbook(rows, Objective(divergence=divergence, temperature=temperature, cross_entropy=0.3))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_maximum_in_the_last_block_is_met_without_overflow(divergence: Divergence) -> None:
    rows = make_rows(4099)
    rows.student[:, -1] += 120
    rows.teacher[:, -2] += 110
    assert_is_textbook(rows, Objective(divergence=divergence, temperature=0.7, cross_entropy=0.3))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equal_rows_have_no_loss_and_no_gradient(divergence: Divergence) -> None:
    rows = make_rows(4099)
    grad = rows.teacher.clone()
    losses, _ = fused_rows_(grad, rows.teacher, Objective(divergence=divergence, temperature=0.7))
    # Half a last digit of 1, which is what a normalizer is off by.
    assert losses.abs().max() < 2**-24
    assert grad.abs().max() < 1e-7


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_close_student_has_the_right_loss(divergence: Divergence) -> None:
    rows = make_rows(4099)
    close = Rows(rows.teacher + 0.05 * rows.student, rows.teacher, rows.labels)
    objective = Objective(divergence=divergence)
    expected_losses, _, _ = textbook(close, objective)
    losses, _ = fused_rows_(close.student.clone(), close.teacher, objective)
    torch.testing.assert_close(losses.double(), expected_losses, rtol=1e-5, atol=0)


@pytest.mark.parametrize("beta", [0.5, 0.95])
def test_a_gradient_sums_to_zero_though_probabilities_do_not_sum_to_one(beta: float) -> None:
    rows = make_rows(4099)
    fused_rows_(rows.student, rows.teacher, Objective(divergence=JSD(beta=beta)))
    sums = rows.student.double().sum(-1).abs()
    assert (sums < 1.6e-7 * rows.student.abs().sum(-1)).all()


@pytest.mark.parametrize("divergence", [*DIVERGENCES, None])
def test_rows_that_lie_further_apart_are_read_and_written_in_place(divergence: Divergence | None) -> None:
    rows = make_rows(37)
    objective = Objective(divergence=divergence, cross_entropy=0.3)
    plain = rows.student.clone()
    expected = fused_rows_(plain, rows.teacher if divergence else None, objective, rows.labels)
    wide_student, wide_teacher = F.pad(rows.student, (0, 11), value=7.0), F.pad(rows.teacher, (0, 5), value=9.0)
    student, teacher = wide_student[:, :37], wide_teacher[:, :37]
    found = fused_rows_(student, teacher if divergence else None, objective, rows.labels)
    assert torch.equal(student, plain)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (wide_student[:, 37:] == 7).all()
    assert (wide_teacher[:, 37:] == 9).all()
    assert torch.equal(teacher, rows.teacher)


def test_a_label_outside_the_vocabulary_gives_nan() -> None:
    rows = make_rows(37)
    labels = torch.tensor([4, -100, 37], device=DEVICE)
    _, cross_entropies = fused_rows_(rows.student, None, Objective(divergence=None, cross_entropy=1.0), labels)
    assert cross_entropies.isnan().tolist() == [False, True, True]


def test_no_rows_give_no_losses() -> None:
    losses, cross_entropies = fused_rows_(
        torch.empty(0, 37, device=DEVICE), torch.empty(0, 37, device=DEVICE), Objective()
    )
    assert losses.shape == cross_entropies.shape == (0,)


def test_a_divergence_without_a_kernel_is_named() -> None:
    class Hinge(ForwardKL):
        pass

    rows = make_rows(37)
    with pytest.raises(ValueError, match="must be ForwardKL, ReverseKL, JSD or None .* got Hinge"):
        fused_rows_(rows.student, rows.teacher, Objective(divergence=Hinge()))


COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from minitron.distill.loss.fused_kernel import WARPS, block_columns, row_kernel

for line in sys.stdin.read().split():
    kind, cross_entropy, at_one = line.split(",")
    constants = dict(MODE=(kind, cross_entropy == "1", at_one == "1"), BLOCK=block_columns(2**17))
    logits = ["*fp32", "i32", "*fp32", "i32", "*i64"]
    for place, absent in ((2, kind == "none"), (4, cross_entropy != "1")):
        if absent:
            constants[0, place], logits[place] = None, "constexpr"
    types = dict(logits=tuple(logits), outputs=("*fp32", "*fp32"), columns="i32", weights=("fp32",) * 5)
    types |= dict(MODE="constexpr", BLOCK="constexpr")
    source = ASTSource(fn=row_kernel, signature=types, constexprs=constants)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
    print(line)
"""


def test_every_variant_compiles_for_a_gpu_that_need_not_be_here(tmp_path: Path) -> None:
    lines = ["none,1,1"]
    for kind in ("forward_kl", "reverse_kl", "jsd"):
        lines += [f"{kind},1,0", f"{kind},0,1"]
    # In a process of its own, since the interpreter takes more than the compiler does.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.stdout.split() == lines, done.stderr[-2000:]


def test_a_divergence_without_a_kernel_is_left_to_torch_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Other(ForwardKL):
        pass

    assert all(has_kernel(Objective(divergence=divergence)) for divergence in DIVERGENCES)
    assert not any(has_kernel(Objective(divergence=Other())) for _ in range(2))
    assert [record.getMessage() for record in caplog.records] == [
        "Other has no kernel: torch computes it, several times slower on a GPU"
    ]
