"""Scores: what a calibration says of every unit of a model, as named arrays that can be saved and compared."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from minitron.artifacts.array_files import ArrayFileError, read_array_file, write_array_file
from minitron.errors import MinitronError
from minitron.models.shape import HybridShape

ScoreArray = npt.NDArray[np.float64]

ByLayer = Mapping[int, ScoreArray]


class LayerScores(TypedDict):
    """The axes that have scores in every block of a kind. Mamba heads and the channels of a head share theirs."""

    intermediate_size: ByLayer
    mamba: ByLayer
    num_attention_heads: ByLayer
    linear_num_value_heads: ByLayer
    n_routed_experts: ByLayer
    moe_intermediate_size: ByLayer
    moe_shared_expert_intermediate_size: ByLayer


LAYER_AXES = tuple(LayerScores.__annotations__)
_LAYER = re.compile(rf"({'|'.join(LAYER_AXES)})\.\d{{1,6}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What a file of scores says of its arrays."""

    num_samples: int
    num_tokens: int
    removed: tuple[int, ...]
    origin: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Importance of a model's units; larger means keep. Axes that were not scored are empty.

    Attributes:
        hidden_size: [D], summed over the blocks; None when not scored.
        intermediate_size: Layer of an MLP block -> [F].
        mamba: Layer of a Mamba block -> [H, P], of which heads and channels take the L2; or [H, P, P], a matrix of
            each head, of which channels take the diagonal and heads the sum over kept channels.
        num_attention_heads: Layer of an attention block -> [heads].
        linear_num_value_heads: Layer of a gated DeltaNet -> [value heads].
        n_routed_experts: Layer of a block of experts -> [E].
        moe_intermediate_size: Layer of a block of experts -> [E, F], the neurons of each.
        moe_shared_expert_intermediate_size: Layer of a block of experts -> [F] of the shared one.
        depth: [L], one score a block.
        removed: Blocks in the order in which a greedy search removed them.
        num_samples: Calibration samples seen.
        num_tokens: Calibration tokens seen.
        origin: What the scores were made from: hashes of model, tokenizer and data, and every setting.
    """

    hidden_size: ScoreArray | None
    intermediate_size: ByLayer
    mamba: ByLayer
    num_attention_heads: ByLayer
    linear_num_value_heads: ByLayer = field(default_factory=dict)
    n_routed_experts: ByLayer = field(default_factory=dict)
    moe_intermediate_size: ByLayer = field(default_factory=dict)
    moe_shared_expert_intermediate_size: ByLayer = field(default_factory=dict)
    depth: ScoreArray
    removed: tuple[int, ...] = ()
    num_samples: int
    num_tokens: int
    origin: Mapping[str, object] = field(default_factory=dict)


def save_scores(scores: Scores, path: Path) -> None:
    """Writes scores as one safetensors file."""
    arrays: dict[str, ScoreArray] = {"depth": scores.depth}
    if scores.hidden_size is not None:
        arrays["hidden_size"] = scores.hidden_size
    for axis in LAYER_AXES:
        arrays |= {f"{axis}.{layer}": np.ascontiguousarray(score) for layer, score in getattr(scores, axis).items()}
    described = {
        "num_samples": scores.num_samples,
        "num_tokens": scores.num_tokens,
        "removed": scores.removed,
        "origin": scores.origin,
    }
    write_array_file(path, described, arrays)


def load_scores(path: Path) -> Scores:
    """Reads scores back.

    Raises:
        MinitronError: The file is missing or is not a scores file.
    """
    try:
        header, arrays = read_array_file(path)
        described = TypeAdapter(_Described).validate_python(header)
    except (ArrayFileError, ValidationError) as error:
        raise MinitronError(f"a scores file is expected at {path}: {error}") from error
    flat = ("depth", "hidden_size")
    wrong = [name for name, each in arrays.items() if (each.ndim != 1 if name in flat else not _LAYER.fullmatch(name))]
    if "depth" not in arrays or wrong:
        fault = f"{wrong[0]!r} is no score of an axis" if wrong else "it has no scores of blocks"
        raise MinitronError(f"a scores file is expected at {path}: {fault}")
    return Scores(
        hidden_size=arrays.get("hidden_size"),
        **layer_scores({axis: _by_layer(arrays, f"{axis}.") for axis in LAYER_AXES}),
        depth=arrays["depth"],
        removed=described.removed,
        num_samples=described.num_samples,
        num_tokens=described.num_tokens,
        origin=described.origin,
    )


def random_scores(shape: HybridShape, *, seed: int) -> Scores:
    """Scores drawn at random: the baseline that every real score must beat."""
    rng = np.random.default_rng(seed)
    axes, sizes = shape.family.axes, shape.sizes
    hidden = rng.random(shape.hidden_size)
    by_axis: dict[str, ByLayer] = {}
    for axis in LAYER_AXES:
        declared = axes.get("mamba_num_heads" if axis == "mamba" else axis)
        if declared is None or declared.blocks is None:
            by_axis[axis] = {}
            continue
        dims: tuple[int, ...] = (sizes[declared.name],)
        if axis == "mamba":
            dims = (shape.mamba_num_heads, shape.mamba_head_dim)
        elif declared.per is not None:
            dims = (sizes[declared.per], sizes[axis])
        by_axis[axis] = {layer: rng.random(dims) for layer in shape.layers_of(declared.blocks)}
    return Scores(
        hidden_size=hidden,
        depth=rng.random(shape.num_hidden_layers),
        num_samples=0,
        num_tokens=0,
        **layer_scores(by_axis),
    )


def layer_scores(by_axis: Mapping[str, ByLayer]) -> LayerScores:
    """Scores by axis as fields of `Scores`; axes that are left out have none."""
    return cast(LayerScores, {axis: by_axis.get(axis, {}) for axis in LAYER_AXES})


def _by_layer(arrays: Mapping[str, ScoreArray], prefix: str) -> dict[int, ScoreArray]:
    layers = sorted(int(name.removeprefix(prefix)) for name in arrays if name.startswith(prefix))
    return {layer: arrays[f"{prefix}{layer}"] for layer in layers}
