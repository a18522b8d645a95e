"""The saved state of an interrupted repair: one file a finished block, written whole or not at all."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minitron.data.samples import Samples
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.settings import RepairSettings

logger = logging.getLogger(__name__)


class RepairState:
    """Where finished blocks are kept.

    Args:
        folder: The folder, or None to keep nothing.
        way: What is repaired and how; blocks that were saved in another way are left aside.
    """

    def __init__(self, folder: Path | None, *, way: Mapping[str, Any]) -> None:
        self.folder, self._way = folder, json.dumps(way, sort_keys=True)

    def load(self, block: int) -> dict[str, torch.Tensor] | None:
        """The repaired weights of a block by name on disk, or None where they are not saved."""
        if self.folder is None or not self._file(block).is_file():
            return None
        try:
            with safe_open(self._file(block), framework="pt") as file:
                way = (file.metadata() or {})["way"]
                weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, KeyError) as error:
            logger.warning("%s cannot be read (%s); repair starts anew there", self._file(block), error)
            return None
        if way != self._way:
            logger.warning("%s was saved by a repair in another way; repair starts anew", self._file(block))
            return None
        return weights

    def save(self, block: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Keeps the repaired weights of a block."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self._file(block).with_suffix(".partial")
        tensors = {name: value.cpu().contiguous() for name, value in weights.items()}
        save_file(tensors, partial, metadata={"way": self._way})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self._file(block))

    def _file(self, block: int) -> Path:
        assert self.folder is not None
        return self.folder / f"repaired-{block:04d}.safetensors"


def describe_way(
    samples: Samples, pair: Alignment, settings: RepairSettings, dtypes: Mapping[str, torch.dtype]
) -> dict[str, object]:
    """Everything that the bits of a repair depend on, the models' own weights aside."""
    plan = pair.plan
    digest = hashlib.sha256(samples.token_ids.tobytes())
    if samples.lengths is not None:
        digest.update(samples.lengths.tobytes())
    kept = hashlib.sha256()
    for (axis, layer), indices in sorted(plan.keep.indices.items(), key=str):
        kept.update(f"{axis}@{layer}".encode() + indices.tobytes())
    return {
        "samples": digest.hexdigest(),
        "source": repr(plan.source),
        "target": repr(plan.target),
        "layers": list(plan.keep.layers),
        "kept": kept.hexdigest(),
        "scales": dict(plan.scales),
        "settings": settings.model_dump(mode="json", include=set(RepairSettings.model_fields)),
        "fitted_to": pair.target,
        "dtypes": {name: str(dtype) for name, dtype in dtypes.items()},
        "stacks": [[stack.whole, stack.device.type] for stack in (pair.teacher, pair.student)],
    }
