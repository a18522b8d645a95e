"""Distillation at the dims of the 12B and the 9B, random weights: tokens a second, MFU, peak memory, the loss's share.

    python benchmarks/kd_train.py --device cuda --optim adamw_torch_8bit          # both whole: 139 GiB, an H200
    python benchmarks/kd_train.py --device cuda --blocks 20                       # the first 20 blocks of each
    python benchmarks/kd_train.py --device cpu --blocks 6 --shrink 16 --seq-len 256   # does it run?

Whole training steps by `minitron.distill.distill`: teacher forward, student forward and backward with recomputation,
the chunked loss, clipping, optimizer. MFU counts 6 operations a student's active weight and token and 2 a teacher's
(embeddings looked up count for nothing, recomputation neither), over the peak of `--peak-tflops`. The first steps are
left out. The loss alone is timed on the same hidden size and vocabulary in the same process.
"""

import argparse
import json
import platform
import resource
import statistics
from pathlib import Path
from typing import Any

import torch
from published import NANO_9B, NANO_12B
from rich.console import Console
from rich.table import Table
from training_steps import StepClock, StepSettings, make_shape, time_steps

from minitron.distill.loss.chunked import distillation_loss
from minitron.distill.loss.objective import DenseTargets, Objective
from minitron.models.shape import HybridShape

LEFT_OUT = 2  # steps in which memory and kernels are warmed up


def time_training(args: argparse.Namespace, shapes: tuple[HybridShape, HybridShape]) -> dict[str, Any]:
    """Whole steps."""
    settings = StepSettings(
        device=args.device,
        seq_len=args.seq_len,
        batch_size=args.batch_size,
        micro_batch_size=args.micro_batch_size,
        chunk_tokens=args.chunk_tokens,
        optim=args.optim,
        left_out=LEFT_OUT,
        steps=args.steps,
    )
    timed = time_steps(*shapes, settings)
    operations = sum(
        factor * shape.family.active_params(shape.counts, shape.sizes)
        for factor, shape in zip((2, 6), shapes, strict=True)
    )
    return {
        "params": {"teacher": timed.teacher_params, "student": timed.student_params},
        "step_s": [min(timed.seconds), statistics.median(timed.seconds), max(timed.seconds)],
        "tokens_per_s": timed.tokens_per_s,
        "operations_per_token": int(operations),
        "mfu": operations * timed.tokens_per_s / (args.peak_tflops * 1e12),
        "peak_gib": peak_bytes(args.device) / 2**30,
    }


def time_loss(args: argparse.Namespace, shapes: tuple[HybridShape, HybridShape]) -> float:
    """Median seconds of the loss and its gradients on one micro-batch."""
    tokens = args.micro_batch_size * args.seq_len
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    make = {"device": args.device, "dtype": dtype}
    taught, learnt = (torch.randn(tokens, shape.hidden_size, **make) for shape in shapes)
    teacher_head, head = (torch.randn(shape.vocab_size, shape.hidden_size, **make) * 0.02 for shape in shapes)
    learnt.requires_grad_()
    head.requires_grad_()
    clock, seconds = StepClock(args.device), []
    for _ in range(args.steps + LEFT_OUT):
        learnt.grad = head.grad = None
        started = clock.now()
        targets = DenseTargets(hidden_ND=taught, head_VD=teacher_head)
        distillation_loss(learnt, head, targets, Objective(), chunk_tokens=args.chunk_tokens).total.backward()
        seconds.append(clock.now() - started)
    return statistics.median(seconds[LEFT_OUT:])


def peak_bytes(device: str) -> int:
    """Most memory so far: of the GPU, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--blocks", type=int, help="blocks of each model (all)")
    parser.add_argument("--shrink", type=int, default=1, help="divide the widths and the vocabulary (1)")
    parser.add_argument("--seq-len", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=4, help="blocks of text a step (4)")
    parser.add_argument("--micro-batch-size", type=int, default=1)
    parser.add_argument("--chunk-tokens", type=int, default=1024)
    parser.add_argument("--optim", default="adamw_torch")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed (5)")
    parser.add_argument("--peak-tflops", type=float, default=989, help="peak dense bf16 rate (989, an H100 or H200)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shapes = tuple(make_shape(shape, blocks=args.blocks, shrink=args.shrink) for shape in (NANO_12B, NANO_9B))
    assert len(shapes) == 2
    found = time_training(args, shapes)
    found["loss_share"] = time_loss(args, shapes) * args.batch_size / args.micro_batch_size / found["step_s"][1]
    found["device"] = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu"
    table = Table(title=f"Distillation on {found['device']}", title_justify="left")
    for column in ("teacher", "student", "step s (min to max)", "tokens/s", "MFU", "loss's share", "peak GiB"):
        table.add_column(column, justify="right")
    least, middle, most = found["step_s"]
    table.add_row(
        f"{found['params']['teacher'] / 1e9:.2f}B",
        f"{found['params']['student'] / 1e9:.2f}B",
        f"{middle:.2f} ({least:.2f} to {most:.2f})",
        f"{found['tokens_per_s']:,.0f}",
        f"{found['mfu']:.1%}" if args.device == "cuda" else "-",
        f"{found['loss_share']:.1%}",
        f"{found['peak_gib']:.1f}",
    )
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
