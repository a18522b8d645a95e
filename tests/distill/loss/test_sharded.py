"""Several processes with unequal rows of both heads find what one with all of them does."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minitron.distill.loss.chunked import Losses
from minitron.distill.loss.objective import DenseTargets, Objective
from tests.support.loss_problems import (
    DIVERGENCES,
    MASKS,
    TOLERANCE,
    Problem,
    Solution,
    assert_solves,
    assert_solves_to_rounding,
    dense_problem,
    normal,
    with_labels,
)
from tests.support.paths import ROOT

TOKENS, ROWS = 13, 31
SHARES = {2: (19, 12), 3: (5, 17, 9)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    problem: Problem
    chunk_tokens: int = 4
    alone: bool = False  # each process is a group of its own, with all rows


def _case(
    divergence: Any, factor: float, mask: str, *, dtype: torch.dtype = torch.float32, chunk_tokens: int = 4
) -> Case:
    objective = Objective(divergence=divergence, temperature=1.6, cross_entropy=factor)
    problem = dense_problem(objective, dtype=dtype, tokens=TOKENS, rows=(ROWS, ROWS), mask_N=MASKS[mask](TOKENS))
    problem = with_labels(problem) if factor else problem
    return Case(problem=problem if divergence else replace(problem, targets=None), chunk_tokens=chunk_tokens)


def _extreme(case: Case) -> Case:
    """The largest logits are all in the last rows, hundreds above the others."""
    head_VD = case.problem.student_head_VD.clone()
    head_VD[-3:] *= 100
    return replace(case, problem=replace(case.problem, student_head_VD=head_VD))


def _leaning(case: Case) -> Case:
    """Rows of the head share a direction and the student is near its teacher: a gradient is less than its parts."""
    problem = case.problem
    head_VD = problem.student_head_VD + 8 * normal(problem.student_head_VD.shape[1:], 1, torch.bfloat16)
    hidden_ND = problem.student_hidden_ND
    near_ND = hidden_ND + normal(tuple(hidden_ND.shape), 2, torch.bfloat16, scale=0.1)
    targets = DenseTargets(hidden_ND=near_ND, head_VD=head_VD)
    return replace(case, problem=replace(problem, student_head_VD=head_VD, targets=targets))


CASES: dict[str, Case] = {
    f"{name}-{factor}-{mask.replace(' ', '_')}": _case(divergence, factor, mask)
    for name, divergence in DIVERGENCES.items()
    for factor in (0.0, 0.7)
    for mask in ("none is given", "two of three count", "one counts")
} | {
    "alone": replace(_case(DIVERGENCES["jsd"], 0.7, "two of three count"), alone=True),
    "cross_entropy": _case(None, 0.7, "two of three count"),
    "none_counts": _case(DIVERGENCES["jsd"], 0.7, "none counts"),
    "one_token_a_chunk": _case(DIVERGENCES["reverse_kl"], 0.7, "two of three count", chunk_tokens=1),
    "one_chunk": _case(DIVERGENCES["forward_kl"], 0.7, "two of three count", chunk_tokens=500),
    "fp64": _case(DIVERGENCES["jsd-uneven"], 0.7, "two of three count", dtype=torch.float64),
    "bf16": _case(DIVERGENCES["forward_kl"], 0.7, "two of three count", dtype=torch.bfloat16),
    "bf16_near_the_teacher": _leaning(_case(DIVERGENCES["forward_kl"], 0.0, "none is given", dtype=torch.bfloat16)),
    "extreme": _extreme(_case(DIVERGENCES["forward_kl"], 0.7, "two of three count", dtype=torch.float64)),
}


def rows_of(case: Case, processes: int) -> list[slice]:
    """Each process's rows of the heads."""
    if case.alone:
        return [slice(0, ROWS)] * processes
    ends = [sum(SHARES[processes][: count + 1]) for count in range(processes)]
    assert ends[-1] == len(case.problem.student_head_VD) == ROWS
    return [slice(end - share, end) for end, share in zip(ends, SHARES[processes], strict=True)]


def launch(processes: int, output: Path) -> Path:
    program = str(Path(__file__).with_name("sharded_program.py"))
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    subprocess.run(
        [*launcher, program, str(output)],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        timeout=300,
    )
    return output


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(3, tmp_path_factory.mktemp("three"))


def check(name: str, processes: int, output: Path) -> None:
    found = [load_file(output / f"{name}-{rank}.safetensors") for rank in range(processes)]
    case = CASES[name]
    for rows, each in zip(rows_of(case, processes), found, strict=True):
        assert len(each["head_grad_VD"]) == rows.stop - rows.start
    expected, dtype = case.problem.reference(), case.problem.student_hidden_ND.dtype
    whole_VD = torch.cat([each["head_grad_VD"] for each in found])
    for each in found:
        assert {each["hidden_grad_ND"].dtype, each["head_grad_VD"].dtype} == {dtype}
        losses = {key: each[key] for key in ("total", "divergence", "cross_entropy")}
        assert all(torch.equal(value, found[0][key]) for key, value in losses.items())
        head_grad_VD = each["head_grad_VD"] if case.alone else whole_VD
        solution = Solution(losses=Losses(**losses), hidden_grad_ND=each["hidden_grad_ND"], head_grad_VD=head_grad_VD)
        if dtype == torch.bfloat16:
            assert_solves(solution, expected, 1e-5, grad_tolerance=3e-3)
        else:
            assert_solves_to_rounding(solution, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_the_reference(two_processes: Path, name: str) -> None:
    check(name, 2, two_processes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_three_processes_equal_the_reference(three_processes: Path, name: str) -> None:
    check(name, 3, three_processes)


def test_rows_of_another_process_are_told_apart(two_processes: Path, tmp_path: Path) -> None:
    """The judge sees two processes' rows swapped."""
    for rank in (0, 1):
        source = two_processes / f"fp64-{rank}.safetensors"
        (tmp_path / f"fp64-{1 - rank}.safetensors").write_bytes(source.read_bytes())
    with pytest.raises(AssertionError):
        check("fp64", 2, tmp_path)
