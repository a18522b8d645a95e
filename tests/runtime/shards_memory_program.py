"""Peak memory of each process that reads a checkpoint in shards and writes it again.

Ways: `shards`, as training does it; `whole`, a planted error: each process loads everything before it is put into
shards, and gathers everything before the first one writes.
"""

import ctypes
import gc
import json
import re
from pathlib import Path

import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distributed import Ranks
from minitron.runtime.loading import empty_model, load_model
from minitron.runtime.saving import save_model
from minitron.runtime.shards import read_weights
from tests.support.models import make_dense_shape, make_tiny_model, make_tiny_shape, write_tiny_checkpoint
from tests.support.shards import sharded, whole_state

CPU = torch.device("cpu")
SHAPE = make_dense_shape(
    "llama",
    hybrid_override_pattern="T" * 12,
    vocab_size=16_000,
    hidden_size=1024,
    intermediate_size=2560,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=72,
)


def write(folder: Path) -> None:
    """The checkpoint, in several files."""
    write_tiny_checkpoint(folder, shape=SHAPE, shard_bytes=250_000_000)


def resident_bytes(key: str) -> int:
    """What the kernel says of this process's memory: `VmRSS` now, `VmHWM` at most since it was last asked to forget."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def begin() -> int:
    """Forgets the peak so far; the bytes that are held now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes("VmRSS")


def measure(way: str, folder: Path, ranks: Ranks) -> dict[str, float]:
    """Bytes that the process grew by at most while it read, and while it wrote, both from before it read."""
    checkpoint = open_checkpoint(folder)
    before = begin()
    if way == "whole":
        model = load_model(folder)
        root = sharded(model)
    else:
        model = empty_model(checkpoint)
        root = sharded(model)
        read_weights(model, checkpoint, device=CPU)
    reading = resident_bytes("VmHWM") - before
    held = begin() - before
    if way == "whole":
        state = whole_state(model)
        if ranks.is_main:
            save_model(state, checkpoint, folder.parent / way)
        ranks.barrier()
    else:
        save_model(model.state_dict(), checkpoint, folder.parent / way, ranks)
    writing = resident_bytes("VmHWM") - before
    del root
    return {"reading": reading, "writing": writing, "held": held}


def main(folder: Path, way: str) -> None:
    torch.set_num_threads(1)
    ranks = Ranks("cpu")
    sharded(make_tiny_model(make_tiny_shape()))  # what is imported and set up at first use
    report = measure(way, folder, ranks)
    (folder.parent / f"{way} {ranks.world_size} {ranks.rank}.json").write_text(json.dumps(report))
