"""What the weights of a repaired block depend on, so that an interrupted repair resumes with its own saved state."""

import hashlib
from collections.abc import Mapping

import torch

from minitron.data.samples import Samples
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.settings import RepairSettings


def repair_identity(
    samples: Samples, pair: Alignment, settings: RepairSettings, dtypes: Mapping[str, torch.dtype], *, processes: int
) -> dict[str, object]:
    """Everything that the bits of a repair depend on, the student's own weights aside."""
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
        "origin": dict(pair.origin),
        "processes": processes,
        "stacks": [[stack.whole, stack.device.type] for stack in (pair.teacher, pair.student)],
    }
