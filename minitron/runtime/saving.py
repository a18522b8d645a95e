"""Saving a loaded model as a checkpoint like the one that it came from."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import Checkpoint, carried_files, open_checkpoint
from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import copy_files, open_weights, write_weights
from minitron.runtime.dtypes import torch_dtype

logger = logging.getLogger(__name__)


def save_model(state: Mapping[str, torch.Tensor], template: Checkpoint, output: Path) -> Checkpoint:
    """Writes a model's state as a checkpoint like another one: its names on disk, dtypes, config and other files.

    Raises:
        MinitronError: The model's tensors are not those of the other checkpoint.
    """
    output.mkdir(parents=True, exist_ok=True)
    places = model_places(template.shape)
    if template.extras:
        logger.warning("%s: layers that predict further tokens are kept as they were, untrained", output)

    planned = {name: (stored.dtype, stored.shape) for name, stored in {**template.tensors, **template.extras}.items()}
    with open_weights(template) as read_stored:

        def read(name: str) -> torch.Tensor:
            if name in template.extras:
                return read_stored(name)
            return read_place(state, places[name]).to(device="cpu", dtype=torch_dtype(planned[name][0]))

        write_weights(output, planned, read, spell=template.name_to_write)
    copy_files(carried_files(template.folder), output)
    write_json(output / "config.json", template.config)
    return open_checkpoint(output)
