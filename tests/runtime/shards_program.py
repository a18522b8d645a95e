"""In every process of a launch: models read in shards beside ones that are loaded whole and put into shards then.

Of each case it writes what differs, and a checkpoint of the shards after their weights were changed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.checkpoints.names import gather_state
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import open_weights
from minitron.distill.sharding import let_go
from minitron.distributed import Ranks
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.runtime import shards
from minitron.runtime.building import assemble_on
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import empty_model, load_model
from minitron.runtime.saving import save_model
from minitron.runtime.shards import read_weights
from tests.support.models import (
    make_dense_shape,
    make_moe_shape,
    make_tiny_model,
    make_tiny_shape,
    write_tiny_checkpoint,
)
from tests.support.plans import make_block_widths_plan
from tests.support.shards import Root, sharded

CPU = torch.device("cpu")
IDS_BT = torch.arange(3, 25).reshape(2, 11)
EXPERTS = make_moe_shape(moe_latent_size=9)
# Five experts are 3 + 2 in two processes; four are 2 + 2 and none in three.
FUSED_EXPERTS = {"n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 14}
FUSED = make_dense_shape("qwen3_moe", hybrid_override_pattern="XTX", **FUSED_EXPERTS)
FEW = make_dense_shape("qwen3_moe", hybrid_override_pattern="XTX", **{**FUSED_EXPERTS, "n_routed_experts": 4})
# Name -> (shape, dtype of the files, dtype in memory).
CASES: Mapping[str, tuple[HybridShape, str, str]] = {
    "hybrid": (make_tiny_shape(), "fp32", "fp32"),
    "experts": (EXPERTS, "fp32", "bf16"),  # of which a bias stays in fp32
    "experts in stacks on disk": (EXPERTS, "bf16", "fp32"),
    "fused experts": (FUSED, "bf16", "bf16"),
    "fewer experts than processes": (FEW, "fp32", "fp32"),
    "llama": (make_dense_shape("llama"), "fp32", "bf16"),
    "tied llama": (make_dense_shape("llama", tie_word_embeddings=1), "fp32", "fp32"),
    "tied gemma": (make_dense_shape("gemma3_text", tie_word_embeddings=1), "bf16", "fp32"),
    "names in memory": (make_tiny_shape(), "fp32", "fp32"),
    "widths by block": (make_tiny_shape(), "fp32", "bf16"),
}


def write_case(root: Path, case: str) -> Path:
    """The checkpoint of a case."""
    folder, (shape, stored, _) = root / case, CASES[case]
    write_tiny_checkpoint(folder, shape=shape, dtype=torch_dtype(stored), shard_bytes=30_000)
    if case == "widths by block":
        whole = folder.rename(root / "whole")
        prune_checkpoint(open_checkpoint(whole), make_block_widths_plan(shape), folder)
    if case in ("experts in stacks on disk", "names in memory"):
        model = make_tiny_model(shape).to(torch_dtype(stored))
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / SINGLE_FILE, metadata={"format": "pt"})
    return folder


@torch.no_grad()
def change(model: nn.Module) -> None:
    """Other weights, the same whether they are in shards or not, in place."""
    for parameter in model.parameters():
        held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        held.mul_(1.7)


def loaded_whole(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """By transformers, and where it has no such model from all tensors at once."""
    checkpoint = open_checkpoint(folder)
    if not checkpoint.shape.block_widths:
        return load_model(folder, dtype=dtype)
    with open_weights(checkpoint) as read:
        tensors = ((name, read(name).to(dtype)) for name in checkpoint.tensors)
        state = gather_state(tensors, model_places(checkpoint.shape))
    return assemble_on(checkpoint.config, checkpoint.shape, state, CPU)


def read_in_shards(folder: Path, dtype: torch.dtype) -> Root:
    """As training does it."""
    checkpoint = open_checkpoint(folder)
    root = sharded(empty_model(checkpoint, dtype))
    assert all(parameter.is_meta for parameter in root.parameters())
    read_weights(root.model, checkpoint, device=CPU)
    return root


def bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Everything that two tensors which are equal to the bit have in common."""
    held = tensor.detach()
    where: tuple[Any, ...] = ("plain",)
    if isinstance(held, DTensor):
        where, held = (held.placements, held.device_mesh.size(), tuple(held.shape)), held.to_local()
    numbers = held.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return where, tensor.dtype, tensor.requires_grad, tuple(held.shape), str(held.device), numbers


def differing(found: PreTrainedModel, expected: PreTrainedModel) -> list[str]:
    """Names of parameters and buffers that are not those of the other model to the bit."""
    tensors = [dict([*model.named_parameters(), *model.named_buffers()]) for model in (found, expected)]
    assert tensors[0].keys() == tensors[1].keys()
    return [name for name, tensor in tensors[0].items() if bits(tensor) != bits(tensors[1][name])]


def compare(folder: Path, output: Path, dtype: torch.dtype, ranks: Ranks) -> dict[str, Any]:
    """Reads, compares, changes and saves one case."""
    plain = loaded_whole(folder, dtype)
    loaded = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}
    whole, found = sharded(plain), read_in_shards(folder, dtype)
    # An oracle of its own: torch.chunk of what transformers loaded.
    none = [torch.empty(0)] * ranks.world_size
    own = {name: [*torch.chunk(tensor, ranks.world_size), *none][ranks.rank] for name, tensor in loaded.items()}
    read = {name: parameter.to_local() for name, parameter in found.model.named_parameters()}
    wrong_rows = [name for name, rows in read.items() if rows.tolist() != own[name].tolist()]
    report: dict[str, Any] = {
        "world_size": distributed.get_world_size(),
        "not in shards": [name for name, each in found.model.named_parameters() if not isinstance(each, DTensor)],
        "differing": differing(found.model, whole.model),
        "wrong rows": wrong_rows,
        "tied": found.model.get_input_embeddings().weight is found.model.get_output_embeddings().weight,
    }
    with torch.no_grad():
        report["same logits"] = torch.equal(found(IDS_BT), whole(IDS_BT))
    let_go(found)  # which its forward pass gathered
    change(found)
    save_model(found.model.state_dict(), open_checkpoint(folder), output / folder.name, ranks)
    return report


def main(root: Path, output: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks("cpu")
    for case, (_, _, held) in CASES.items():
        report = compare(root / case, output, torch_dtype(held), ranks)
        (output / f"{case} {ranks.rank}.json").write_text(json.dumps(report))


def main_planted(root: Path, output: Path) -> None:
    """A planted error: each process reads the rows of the next one."""
    torch.set_num_threads(1)
    ranks = Ranks("cpu")
    expected = sharded(load_model(root))
    rows = shards._rows_of
    shards._rows_of = lambda tensor, rank: rows(tensor, (rank + 1) % ranks.world_size)
    found = read_in_shards(root, torch.float32)
    report = {
        "differing": differing(found.model, expected.model),
        "all": [name for name, _ in found.named_parameters()],
    }
    (output / f"planted {ranks.rank}.json").write_text(json.dumps(report))
