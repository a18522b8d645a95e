"""Resumable training states: which are whole, in which form, and which tensors in them are tied."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from minitron.artifacts.json_files import write_json
from minitron.errors import MinitronError

MARKER_FILE = "whole.json"
HISTORY_FILE = "trainer_state.json"


def keep_state(state: Path, *, sharded: bool) -> None:
    """Marks a state as whole, which every process must have written by now, and removes those before it."""
    write_json(state / MARKER_FILE, {"sharded": sharded})
    for other in state.parent.glob("checkpoint-*"):
        if other != state:
            shutil.rmtree(other)


def last_whole_state(folder: Path, *, sharded: bool) -> Path | None:
    """The newest whole state in a folder, or None where there is none.

    Raises:
        MinitronError: It holds shards where whole weights are wanted, or the other way round.
    """
    states = [path for path in folder.glob("checkpoint-*") if (path / MARKER_FILE).is_file()]
    if not states:
        return None
    newest = max(states, key=step_of)
    found = json.loads((newest / MARKER_FILE).read_text())["sharded"]
    if found != sharded:
        forms = {True: "fsdp2", False: "ddp"}
        raise MinitronError(
            f"training must resume with the sharding that it began with, {newest} is of {forms[found]} and "
            f"{forms[sharded]} is asked for; set distill.sharding={forms[found]}, or remove the state to begin anew"
        )
    return newest


def step_of(state: Path) -> int:
    """The step that a state was saved after."""
    return int(state.name.rpartition("-")[2])


def read_history(state: Path) -> list[dict[str, float]]:
    """What was logged up to a state."""
    history: list[dict[str, float]] = json.loads((state / HISTORY_FILE).read_text())["log_history"]
    return history


def second_names(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that have another name before, as a tied head has."""
    first: dict[tuple[int, torch.Size], str] = {}
    # A tensor without weights, on torch's meta device, has no address; it is told by the object that it is.
    keys = {name: (tensor.data_ptr() or id(tensor), tensor.shape) for name, tensor in state.items()}
    for name, key in keys.items():
        first.setdefault(key, name)
    return [name for name, key in keys.items() if first[key] != name]
