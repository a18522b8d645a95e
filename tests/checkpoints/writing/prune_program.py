"""Prunes a checkpoint in tiny shards, to be killed meanwhile: `prune_program.py SOURCE OUTPUT`."""

import sys
from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan

SHARD_BYTES = 50_000


def main(source: Path, output: Path) -> None:
    opened = open_checkpoint(source)
    shape = opened.shape
    layers = tuple(range(shape.num_hidden_layers - 1))
    target = shape.resized(layers=layers, hidden_size=shape.hidden_size - 16)
    keep = select_units(random_scores(shape, seed=0), shape, target, layers)
    plan = PrunePlan(source=shape, target=target, keep=keep)
    print("started", flush=True)
    prune_checkpoint(opened, plan, output, OutputFormat(shard_bytes=SHARD_BYTES))
    print("ended", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
