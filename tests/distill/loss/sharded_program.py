"""Run by torchrun: every process solves every case with its rows of both heads and saves what it found."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from minitron.distill.loss.objective import DenseTargets
from minitron.distill.loss.sharded import sharded_loss
from tests.distill.loss.test_sharded import CASES, Case, rows_of
from tests.support.loss_problems import UPSTREAM


def solve(case: Case, rank: int, group: dist.ProcessGroup | None) -> dict[str, torch.Tensor]:
    problem, rows = case.problem, rows_of(case, dist.get_world_size())[rank]
    targets = problem.targets
    if isinstance(targets, DenseTargets):
        targets = DenseTargets(hidden_ND=targets.hidden_ND, head_VD=targets.head_VD[rows].clone())
    hidden_ND = problem.student_hidden_ND.clone().requires_grad_()
    head_VD = problem.student_head_VD[rows].clone().requires_grad_()
    losses = sharded_loss(
        hidden_ND,
        head_VD,
        targets,
        problem.objective,
        group=group,
        labels_N=problem.labels_N,
        mask_N=problem.mask_N,
        chunk_tokens=case.chunk_tokens,
    )
    hidden_grad_ND, head_grad_VD = torch.autograd.grad(UPSTREAM * losses.total, (hidden_ND, head_VD))
    return {
        "total": losses.total.detach(),
        "divergence": losses.divergence,
        "cross_entropy": losses.cross_entropy,
        "hidden_grad_ND": hidden_grad_ND,
        "head_grad_VD": head_grad_VD,
    }


def main(output: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    groups = [dist.new_group([each]) for each in range(dist.get_world_size())]
    for name, case in CASES.items():
        found = {
            key: tensor.contiguous().clone()
            for key, tensor in solve(case, rank, groups[rank] if case.alone else None).items()
        }
        save_file(found, output / f"{name}-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
