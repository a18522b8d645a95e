"""Pruning in processes of its own: to be killed meanwhile, or to find files too large."""

from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.writing.journal import Journal
from minitron.distributed import Ranks
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan
from tests.support.plans import make_plan

SHARD_BYTES = 50_000


def main(source: Path, output: Path, ranks: Ranks | None = None) -> None:
    """Prunes a checkpoint in tiny shards."""
    opened = open_checkpoint(source)
    shape = opened.shape
    layers = tuple(range(shape.num_hidden_layers - 1))
    target = shape.resized(layers=layers, hidden_size=shape.hidden_size - 16)
    keep = select_units(random_scores(shape, seed=0), shape, target, layers)
    plan = PrunePlan(source=shape, target=target, keep=keep)
    print("started", flush=True)
    prune_checkpoint(opened, plan, output, OutputFormat(shard_bytes=SHARD_BYTES), ranks=ranks)
    print("ended", flush=True)


def prune_together(source: Path, output: Path, shards: int | None) -> None:
    """Prunes in every process of a launch; all but the first one fail after so many shards of theirs."""
    ranks, written = Ranks(), 0
    record = Journal.record

    def record_some(journal: Journal, name: str) -> None:
        nonlocal written
        record(journal, name)
        written += 1
        print(name, flush=True)
        if written == shards:
            raise KeyboardInterrupt

    if not ranks.is_main:
        Journal.record = record_some  # type: ignore[method-assign]
    main(source, output, ranks)


def prune_where_files_are_small(source: Path, output: Path, shard_bytes: int, limit: int) -> None:
    """Prunes the tiny hybrid where no file may be larger, and prints what that is refused with."""
    import resource

    opened = open_checkpoint(source)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        prune_checkpoint(opened, make_plan(opened.shape), output, OutputFormat(shard_bytes=shard_bytes))
    except ValueError as error:
        print(error)
