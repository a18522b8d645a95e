"""Weights and optimizer states in shards over all processes (torch's FSDP2), and their resumable state on disk."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from minitron.distill.shard_files import load_state
from minitron.errors import MinitronError

STATE_SUBFOLDER = "sharded"


def shard_blocks(module: nn.Module, blocks: Iterable[nn.Module], *, device: torch.device) -> None:
    """Shards a module over all processes in place, each block gathered on its own, all else with the module.

    Weights are moved to the device a block at a time, so that it never holds the whole module; those on torch's meta
    device stay there, as shards.

    Raises:
        MinitronError: There is one process only.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        raise MinitronError("sharding needs several processes: start minitron by torchrun or accelerate launch")
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def let_go(module: nn.Module) -> None:
    """Frees what a sharded module's last forward pass gathered of its own weights, where no backward pass does."""
    if isinstance(module, FSDPModule):
        module.reshard()


def save_shards(module: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Writes weights and optimizer state, each process its own shards. All must call it."""
    save(_state(module, optimizer), checkpoint_id=folder / STATE_SUBFOLDER)


def load_shards(module: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Reads what `save_shards` wrote into a module that is sharded over any number of processes, in place."""
    state = _state(module, optimizer)
    load_state(state, folder / STATE_SUBFOLDER)
    set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def save_weights(module: nn.Module, folder: Path) -> None:
    """Writes the weights alone, each process its own shards. All must call it."""
    save({"model": get_model_state_dict(module)}, checkpoint_id=folder / STATE_SUBFOLDER)


def load_weights(module: nn.Module, folder: Path) -> None:
    """Reads the weights alone of what `save_shards` or `save_weights` wrote, in place."""
    state = {"model": get_model_state_dict(module)}
    load_state(state, folder / STATE_SUBFOLDER)
    set_model_state_dict(module, state["model"])


def _state(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    model, optimizers = get_state_dict(module, optimizer)
    return {"model": model, "optimizer": optimizers}
