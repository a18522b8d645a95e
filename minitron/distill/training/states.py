"""Saved states of a stage of training: which are whole, and which names in them are second ones."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

# Trainer writes this file behind all that the first process writes.
LAST_FILE = "trainer_state.json"


def last_whole_state(folder: Path, *, processes: int) -> Path | None:
    """The newest state in a folder that every process has written whole; None where there is none."""
    states = [path for path in folder.glob("checkpoint-*") if _is_whole(path, processes)]
    return max(states, key=step_of) if states else None


def step_of(state: Path) -> int:
    """The step that a state was saved after."""
    return int(state.name.rpartition("-")[2])


def read_history(state: Path) -> list[dict[str, float]]:
    """What was logged up to a state."""
    history: list[dict[str, float]] = json.loads((state / LAST_FILE).read_text())["log_history"]
    return history


def second_names(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that have another name before, as a tied head has."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in state.items():
        first.setdefault((tensor.data_ptr(), tensor.shape), name)
    return [name for name, tensor in state.items() if first[tensor.data_ptr(), tensor.shape] != name]


def _is_whole(state: Path, processes: int) -> bool:
    try:
        read_history(state)
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return False
    randomness = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    return all((state / name).is_file() for name in randomness)
