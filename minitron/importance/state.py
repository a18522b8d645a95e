"""The saved state of an interrupted calibration: one file a process, replaced whole or not at all."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minitron.runtime.hooks import State

logger = logging.getLogger(__name__)


class StateFile:
    """Where a process keeps its state.

    Args:
        folder: The folder of states, or None to keep nothing.
        rank: Number of the process.
        way: What is calibrated and how: samples, shape, settings, processes, layerwise or not. A state that was made in
            another way would end with other scores or roundings, so it is left aside.
    """

    def __init__(self, folder: Path | None, *, rank: int, way: Mapping[str, Any]) -> None:
        self._path = None if folder is None else folder / f"state-{rank}.safetensors"
        self._way = dict(way)

    def load(self) -> State:
        """The saved state, or nothing when there is none that can be used."""
        if self._path is None or not self._path.is_file():
            return {}
        try:
            with safe_open(self._path, framework="pt") as file:
                way = json.loads((file.metadata() or {})["way"])
                state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.warning("%s cannot be read (%s); calibration starts anew", self._path, error)
            return {}
        if way != self._way:
            differing = ", ".join(sorted(key for key in {*way, *self._way} if way.get(key) != self._way.get(key)))
            logger.warning("%s was saved by a run with other %s; calibration starts anew", self._path, differing)
            return {}
        logger.info("calibration goes on from %s", self._path)
        return state

    def save(self, state: Mapping[str, torch.Tensor]) -> None:
        """Replaces the saved state."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        save_file(tensors, partial, metadata={"way": json.dumps(self._way)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self._path)
