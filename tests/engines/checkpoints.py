"""What every engine is asked for: teachers of each family, and each of them cut in every way, distilled and merged."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import minitron
from minitron.checkpoints.checkpoint import Checkpoint, carried_files, open_checkpoint
from minitron.checkpoints.weights import copy_files, open_weights, write_state
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.models.slicing import slice_tensors
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from tests.support.models import make_dense_shape, make_moe_shape, write_tiny_checkpoint
from tests.support.paths import TEACHER
from tests.support.quickstart import write_small_quickstart


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A teacher and its cuts.

    Attributes:
        shape: Of a teacher with random weights; None for the quickstart's trained one.
        layers: Blocks that a cut in depth keeps.
        cuts: What a cut is called -> the sizes that it changes.
    """

    shape: HybridShape | None = None
    layers: tuple[int, ...]
    cuts: Mapping[str, Mapping[str, int]]


def _dense(model_type: str, **changes: int) -> Family:
    sizes = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "head_dim": 32, **changes}
    return Family(
        shape=make_dense_shape(model_type, hybrid_override_pattern="TTTT", **sizes),
        layers=(0, 2, 3),
        cuts={
            "width": {"hidden_size": 72},
            "FFN": {"intermediate_size": 96},
            "attention heads": {"num_attention_heads": 3},
        },
    )


# Sizes that vLLM's kernels for CPUs take: heads of 32 channels, experts of whole 32 channels.
FAMILIES = {
    "nemotron_h": Family(
        layers=(0, 1, 2, 3, 4, 7, 8, 9, 10, 11),
        cuts={
            "width": {"hidden_size": 128},
            "FFN": {"intermediate_size": 448},
            "Mamba heads": {"mamba_num_heads": 8},
            "Mamba channels": {"mamba_head_dim": 16},
            "attention heads": {"num_attention_heads": 2},
        },
    ),
    "nemotron_h with experts": Family(
        shape=make_moe_shape(
            hybrid_override_pattern="ME*EME",
            hidden_size=96,
            num_attention_heads=6,
            head_dim=32,
            mamba_num_heads=8,
            mamba_head_dim=16,
            ssm_state_size=16,
            n_routed_experts=12,
            moe_intermediate_size=64,
            moe_shared_expert_intermediate_size=128,
        ),
        layers=(0, 1, 2, 4, 5),
        cuts={
            "width": {"hidden_size": 64},
            "experts": {"n_routed_experts": 9},
            "expert FFN": {"moe_intermediate_size": 32},
            "shared FFN": {"moe_shared_expert_intermediate_size": 64},
            "Mamba heads": {"mamba_num_heads": 4},
        },
    ),
    "llama": _dense("llama"),
    "llama, tied": _dense("llama", tie_word_embeddings=1),
    "qwen3": _dense("qwen3"),
    "qwen3, tied": _dense("qwen3", tie_word_embeddings=1),
}
EVERYTHING, TRAINED = "everything", "trained"


def write_checkpoints(name: str, root: Path) -> dict[str, Path]:
    """A family's teacher and cuts, or what a run of the quickstart leaves: what was done -> the checkpoint's folder."""
    return _write_trained(root) if name == TRAINED else _write_family(name, root)


def _write_family(name: str, root: Path) -> dict[str, Path]:
    family = FAMILIES[name]
    teacher = TEACHER if family.shape is None else _write_teacher(root / "teacher", family.shape)
    source = open_checkpoint(teacher)
    whole = tuple(range(source.shape.num_hidden_layers))
    together = {axis: size for sizes in family.cuts.values() for axis, size in sizes.items()}
    wanted = {
        "depth": (family.layers, {}),
        **{cut: (whole, sizes) for cut, sizes in family.cuts.items()},
        EVERYTHING: (family.layers, together),
    }
    written = {"teacher": teacher}
    for cut, (layers, sizes) in wanted.items():
        written[cut] = _prune(source, root / cut, layers=layers, sizes=sizes)
    return written


def _write_trained(root: Path) -> dict[str, Path]:
    write_small_quickstart(root)
    recipe = root / "examples" / "quickstart" / "recipe.yaml"
    run = root / "run"
    minitron.run(recipe, output=run, last="distill")
    distilled, pruned = run / "distill" / "checkpoint", run / "prune" / "checkpoint"
    minitron.merge([pruned, distilled], output=root / "merged", weights=[0.25, 0.75])
    return {"distilled": distilled, "merged": root / "merged"}


def move_heads(pruned: Path, folder: Path) -> Path:
    """The checkpoint with two Mamba heads of different groups exchanged: what a plan refuses and no count notices."""
    whole = open_checkpoint(pruned)
    heads = np.arange(whole.shape.sizes["mamba_num_heads"])
    heads[[0, -1]] = heads[[-1, 0]]  # the first group's head would read the last group's B and C
    moved = {("mamba_num_heads", layer): heads for layer in whole.shape.layers_of("M")}
    keep = Keep(layers=tuple(range(whole.shape.num_hidden_layers)), indices=moved)
    folder.mkdir(parents=True, exist_ok=True)
    with open_weights(whole) as read:
        write_state(folder, dict(slice_tensors(read, whole.shape, keep)))
    copy_files([*carried_files(pruned), pruned / "config.json"], folder)
    return folder


def _prune(source: Checkpoint, output: Path, *, layers: tuple[int, ...], sizes: Mapping[str, int]) -> Path:
    target = source.shape.resized(layers=layers, **sizes)
    keep = select_units(random_scores(source.shape, seed=0), source.shape, target, layers)
    return prune_checkpoint(source, PrunePlan(source=source.shape, target=target, keep=keep), output).folder


def _write_teacher(folder: Path, shape: HybridShape) -> Path:
    return write_tiny_checkpoint(folder, shape=dataclasses.replace(shape, vocab_size=271), dtype=torch.float32)
