"""The cost of scoring beside its forward pass, and what prefix caching saves a greedy depth search.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --device cuda

Widths: a model with the 12B's dims and a few blocks, and the quickstart's teacher. Rounds alternate between the bare
forward and each scorer, and medians of the rounds' ratios are given. Peak memory is compared between fresh processes,
one that runs the forward and one that scores. Greedy: the same search with cached prefixes and naively, which runs
the whole model for every trial.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published import NANO_12B
from rich.console import Console
from rich.table import Table
from transformers import NemotronHConfig, PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.importance.calibrate import calibrate
from minitron.importance.scorers import SCORERS
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.models.shape import HybridShape
from minitron.runtime.building import new_model
from minitron.runtime.loading import load_model
from minitron.runtime.stack import MemoryStack

TEACHER = Path(__file__).parents[1] / "examples" / "quickstart" / "teacher"


def wide_model(pattern: str, device: str) -> tuple[PreTrainedModel, HybridShape]:
    """A model of the 12B's widths with random weights."""
    # Width scoring never touches the head, so a small vocabulary will do.
    shape = replace(NANO_12B, hybrid_override_pattern=pattern, vocab_size=4096)
    config = NemotronHConfig(**shape.config_sizes, hybrid_override_pattern=pattern, chunk_size=64, pad_token_id=0)
    return new_model(config, seed=0).to(device), shape


def random_samples(shape: HybridShape, count: int, seq_len: int) -> Samples:
    """Random token ids."""
    rng = np.random.default_rng(0)
    return Samples(token_ids=rng.integers(3, shape.vocab_size, (count, seq_len), dtype=np.int32))


def width_settings(scorer: str) -> CalibrationSettings:
    """All axes by one scorer; block influence comes along."""
    return CalibrationSettings(width=WidthSettings.uniform(scorer))


@torch.no_grad()
def bare_forward(model: PreTrainedModel, samples: Samples) -> None:
    """The pass that scoring listens to."""
    backbone: Any = model.base_model
    for batch in samples.batches(8):
        backbone(batch.ids(model.device), use_cache=False)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def width_ratios(model: PreTrainedModel, shape: HybridShape, samples: Samples, rounds: int) -> dict[str, list[float]]:
    """Scorer -> time of scoring over the time of the bare forward beside it, a ratio a round."""
    stack = MemoryStack(model, shape)
    ratios: dict[str, list[float]] = {scorer: [] for scorer in SCORERS}
    bare_forward(model, samples)
    for scorer in SCORERS:
        calibrate(stack, samples, width_settings(scorer))
    for _ in range(rounds):
        for scorer in SCORERS:
            before = timed(lambda: bare_forward(model, samples), model.device)
            scored = timed(lambda: calibrate(stack, samples, width_settings(scorer)), model.device)  # noqa: B023
            after = timed(lambda: bare_forward(model, samples), model.device)
            ratios[scorer].append(2 * scored / (before + after))
    return ratios


def peak_bytes(device: str) -> int:
    """Most memory that this process held: on the GPU, or resident."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def memory_of(what: str, device: str, pattern: str, tokens: int) -> int:
    """Peak of a fresh process that does one thing."""
    arguments = ["--memory-of", what, "--device", device, "--pattern", pattern, "--tokens", str(tokens)]
    answer = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return int(answer.stdout.split()[-1])


@torch.no_grad()
def naive_greedy(model: PreTrainedModel, samples: Samples, remove: int) -> tuple[int, ...]:
    """Every trial runs the whole model without its block and all of its logits."""
    backbone: Any = model.base_model
    head: Any = model.get_output_embeddings()
    whole = backbone.layers

    def logits(layers: list[int], batch: Samples) -> torch.Tensor:
        backbone.layers = torch.nn.ModuleList([whole[layer] for layer in layers])
        found: torch.Tensor = head(backbone(batch.ids(model.device), use_cache=False).last_hidden_state)
        return found

    batches = samples.batches(8)
    everything = list(range(len(whole)))
    reference = [logits(everything, batch) for batch in batches]
    removed: list[int] = []
    for _ in range(remove):
        left = [layer for layer in everything if layer not in removed]
        errors = {}
        for layer in left:
            kept = [other for other in left if other != layer]
            errors[layer] = sum(
                float((logits(kept, batch) - original).square().mean())
                for batch, original in zip(batches, reference, strict=True)
            )
        removed.append(min(errors, key=errors.__getitem__))
    backbone.layers = whole
    return tuple(removed)


def greedy_ratio(model: PreTrainedModel, shape: HybridShape, samples: Samples, remove: int, rounds: int) -> list[float]:
    """Time of the cached search over the naive one, a ratio a round; both must remove the same blocks."""
    stack = MemoryStack(model, shape)
    settings = CalibrationSettings(
        width=WidthSettings.uniform(None), depth=DepthSettings(scorer="logit_mse", remove=remove, samples=None)
    )
    ratios = []
    for _ in range(rounds):
        found: list[Any] = []
        naive = timed(lambda: found.append(naive_greedy(model, samples, remove)), model.device)  # noqa: B023
        cached = timed(lambda: found.append(calibrate(stack, samples, settings).removed), model.device)  # noqa: B023
        if found[0] != found[1]:
            raise SystemExit(f"the cached search removed {found[1]}, the naive one {found[0]}")
        ratios.append(cached / naive)
    return ratios


def show(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--pattern", default="M-M*-", help="blocks of the wide model")
    parser.add_argument("--greedy-pattern", default="M-M-M*-M-M-M", help="blocks of the wide model that is searched")
    parser.add_argument("--greedy-tokens", type=int, default=256)
    parser.add_argument("--only", choices=["width", "greedy"], help="half of the benchmark")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        model, shape = wide_model(args.pattern, args.device)
        samples = random_samples(shape, 4, args.tokens // 4)
        if args.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        if args.memory_of == "forward":
            bare_forward(model, samples)
        else:
            calibrate(MemoryStack(model, shape), samples, width_settings(args.memory_of))
        print(peak_bytes(args.device))
        return
    console = Console(width=120)
    if args.only != "greedy":
        table = Table(title="Width scoring over the bare forward (median of rounds)", title_justify="left")
        for column in ("model", "scorer", "time", "peak memory"):
            table.add_column(column)
        base = memory_of("forward", args.device, args.pattern, args.tokens)
        memory = {scorer: memory_of(scorer, args.device, args.pattern, args.tokens) / base for scorer in SCORERS}
        model, shape = wide_model(args.pattern, args.device)
        samples = random_samples(shape, 4, args.tokens // 4)
        for scorer, ratios in width_ratios(model, shape, samples, args.rounds).items():
            table.add_row(f"12B's widths, {args.pattern}", scorer, show(ratios), f"{memory[scorer]:.3f}")
        del model
        checkpoint = open_checkpoint(TEACHER)
        model = load_model(TEACHER, device=args.device)
        samples = random_samples(checkpoint.shape, 32, 256)
        for scorer, ratios in width_ratios(model, checkpoint.shape, samples, args.rounds).items():
            table.add_row("quickstart's teacher", scorer, show(ratios), "-")
        console.print(table)
    if args.only != "width":
        table = Table(title="Greedy depth, cached over naive, the same blocks removed", title_justify="left")
        for column in ("model", "blocks", "removed", "time"):
            table.add_column(column)
        checkpoint = open_checkpoint(TEACHER)
        model = load_model(TEACHER, device=args.device)
        ratios = greedy_ratio(model, checkpoint.shape, random_samples(checkpoint.shape, 8, 256), 4, args.rounds)
        table.add_row("quickstart's teacher", "12", "4", show(ratios))
        model, shape = wide_model(args.greedy_pattern, args.device)
        samples = random_samples(shape, 2, args.greedy_tokens // 2)
        ratios = greedy_ratio(model, shape, samples, 1, max(1, args.rounds // 2))
        table.add_row("12B's widths", str(shape.num_hidden_layers), "1", show(ratios))
        console.print(table)


if __name__ == "__main__":
    main()
