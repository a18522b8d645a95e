"""A teacher of random hidden states, and a small cache made from it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from minitron.distill.loss.objective import DenseTargets
from minitron.distill.teachers.cache_file import CacheContents, TeacherCache
from minitron.distill.teachers.cache_writer import write_teacher_cache
from minitron.distill.teachers.records import RecordLayout

NUM_BLOCKS, SEQ_LEN, VOCAB, HIDDEN = 11, 7, 271, 13


class StoppedError(Exception):
    """What a killed writer is here."""


class RandomTeacher:
    """Hidden states that depend on the token and the block, and a head with padding rows.

    Args:
        stop_at: Block that it does not get to.
        scale: Spread of the logits.
    """

    def __init__(self, *, stop_at: int | None = None, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.embeddings_VD = torch.randn(VOCAB, HIDDEN, generator=generator)
        self.head_VD = (torch.randn(VOCAB + 6, HIDDEN, generator=generator) * scale).to(dtype)
        self.stop_at = stop_at
        self.batches: list[list[int]] = []

    def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> DenseTargets:
        if self.stop_at is not None and self.stop_at in index_B:
            raise StoppedError
        self.batches.append(index_B.tolist())
        hidden_BTD = self.embeddings_VD[input_ids_BT] + 0.1 * index_B[:, None, None]
        return DenseTargets(hidden_ND=hidden_BTD.flatten(0, 1).to(self.head_VD.dtype), head_VD=self.head_VD)


def make_blocks(seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, VOCAB, (NUM_BLOCKS, SEQ_LEN)).astype(np.int32)


def write(folder: Path, teacher: Any = None, sequences_NT: Any = None, **changes: Any) -> TeacherCache:
    """A cache of five tokens in shards of four blocks, written in batches of three."""
    run = {"batch_size": 3} | {name: changes.pop(name) for name in ("batch_size", "ranks") if name in changes}
    settings: dict[str, Any] = {
        "top_k": 5,
        "vocab_size": VOCAB,
        "temperature": 1.0,
        "made_from": {"teacher": "t", "text": "x"},
    } | changes
    layout = RecordLayout(vocab_size=settings["vocab_size"], top_k=settings["top_k"], seq_len=SEQ_LEN)
    settings.setdefault("shard_bytes", 4 * layout.record_bytes + 1)
    sequences_NT = make_blocks() if sequences_NT is None else sequences_NT
    return write_teacher_cache(teacher or RandomTeacher(), sequences_NT, folder, CacheContents(**settings), **run)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
