"""Resumable training states: which are whole, in which form, and which tensors in them are tied."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from minitron.artifacts.json_files import JsonValue, read_json, write_json
from minitron.errors import MinitronError

MARKER_FILE = "whole.json"
HISTORY_FILE = "trainer_state.json"
LOGGED = ("loss", "eval_loss")  # what is read of Trainer's log beside the step
_STATE_NAME = re.compile(r"checkpoint-\d{1,18}")


def keep_state(state: Path, *, sharded: bool) -> None:
    """Marks a state as whole, which every process must have written by now, and removes those before it."""
    write_json(state / MARKER_FILE, {"sharded": sharded})
    for other in state.parent.glob("checkpoint-*"):
        if other != state:
            shutil.rmtree(other)


def last_whole_state(folder: Path, *, sharded: bool) -> Path | None:
    """The newest whole state in a folder, or None where there is none.

    Raises:
        MinitronError: It holds shards where whole weights are wanted, or the other way round, or does not say so.
    """
    found_states = (path for path in folder.glob("checkpoint-*") if _STATE_NAME.fullmatch(path.name))
    states = [path for path in found_states if (path / MARKER_FILE).is_file()]
    if not states:
        return None
    newest = max(states, key=step_of)
    found = read_json(newest / MARKER_FILE).get("sharded")
    if not isinstance(found, bool):
        raise MinitronError(f"{newest / MARKER_FILE} must say whether the state is sharded; remove {newest}")
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
    """What was logged up to a state.

    Raises:
        MinitronError: It is none of Trainer's.
    """
    history = read_json(state / HISTORY_FILE).get("log_history")
    if not isinstance(history, list) or not all(_is_entry(entry) for entry in history):
        raise MinitronError(f"{state / HISTORY_FILE} must be Trainer's record of it; remove {state} to begin anew")
    return cast(list[dict[str, float]], history)


def _is_entry(entry: JsonValue) -> bool:
    """Whether an entry of Trainer's log has numbers where they are read."""
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return False
    return all(isinstance(entry.get(name, 0.0), int | float) for name in LOGGED)


def second_names(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that have another name before, as a tied head has."""
    first: dict[tuple[int, torch.Size], str] = {}
    # A tensor without weights, on torch's meta device, has no address; it is told by the object that it is.
    keys = {name: (tensor.data_ptr() or id(tensor), tensor.shape) for name, tensor in state.items()}
    for name, key in keys.items():
        first.setdefault(key, name)
    return [name for name, key in keys.items() if first[key] != name]
