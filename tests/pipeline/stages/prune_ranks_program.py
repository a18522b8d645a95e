"""Run in every process of a launch: cuts a tiny checkpoint as one of several, with all that may go with a cut."""

import json
from pathlib import Path

import torch

from minitron.api.prune import prune
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distributed import Ranks
from minitron.importance.scores import random_scores
from minitron.pipeline.context import Execution
from minitron.pipeline.pruning import Cut, prune_to
from minitron.recipe.prune import BlockWidthsSection, CalibrationSection, PruneSection, RepairSection
from minitron.recipe.source import Source
from minitron.units import GIB
from tests.support.plans import LAYERS

SHARD_BYTES = 9_000


def section_of(text: Path, way: str) -> PruneSection:
    """Samples make another number of batches than there are processes, and their documents are padded."""
    data = (Source(path=str(text)),)
    measured = {"data": data, "samples": 7, "seq_len": 16, "packed": False}
    widths = BlockWidthsSection(data=data, samples=3, sequences=2, seq_len=16, steps=4)
    repair = RepairSection.model_validate({**measured, "batch_size": 2, "epochs": 1 if "epochs" in way else 0})
    return PruneSection(
        shard_gib=SHARD_BYTES / GIB,
        compensate=CalibrationSection.model_validate({**measured, "batch_size": 2}) if "compensated" in way else None,
        block_widths=widths if "widths" in way else None,
        repair=repair if "repaired" in way else None,
    )


def cut_to(teacher: Path, text: Path, output: Path, way: str, ranks: Ranks | None = None) -> None:
    source = open_checkpoint(teacher)
    target = source.shape.resized(layers=LAYERS, hidden_size=13, intermediate_size=21, mamba_num_heads=4)
    cut = Cut(source=source, scores=random_scores(source.shape, seed=0), target=target, layers=LAYERS)
    prune_to(cut, output, section=section_of(text, way), execution=Execution(seed=3), ranks=ranks)


def main(teacher: Path, text: Path, output: Path, ways: tuple[str, ...]) -> None:
    """Cuts in each way into a folder of its name, and writes what the process was."""
    torch.set_num_threads(1)
    ranks = Ranks()
    (output / f"process-{ranks.rank}.json").write_text(json.dumps({"processes": ranks.world_size}))
    for way in ways:
        (output / way).mkdir(exist_ok=True)
        cut_to(teacher, text, output / way / "checkpoint", way, ranks)


def prune_to_kept_tokens(teacher: Path, text: Path, scores: Path, output: Path) -> None:
    """Cuts vocabulary and hidden channels as a script does, alone or in every process of a launch."""
    torch.set_num_threads(1)
    data = [{"path": str(text)}]
    settings = {
        "vocabulary": {"data": data, "size": 264, "multiple_of": 8},
        "compensate": {"data": data, "samples": 5, "seq_len": 16, "batch_size": 2},
    }
    prune(teacher, scores=scores, shape={"hidden_size": 14}, output=output, settings=settings)
