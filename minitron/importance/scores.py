"""Scores: what a calibration says of every unit of a model, as named arrays that can be saved and compared."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from minitron.hybrid.shape import HybridShape

ScoreArray = npt.NDArray[np.float64]

LAYER_AXES = ("intermediate_size", "mamba", "num_attention_heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Importance of a model's units; larger means keep. Axes that were not scored are empty.

    Attributes:
        hidden_size: [D], summed over the blocks; None when not scored.
        intermediate_size: Layer of an MLP block -> [F].
        mamba: Layer of a Mamba block -> [H, P], of which heads and channels take the L2; or [H, P, P], a matrix of
            each head, of which channels take the diagonal and heads the sum over kept channels.
        num_attention_heads: Layer of an attention block -> [heads].
        depth: [L], one score a block.
        removed: Blocks in the order in which a greedy search removed them.
        num_samples: Calibration samples seen.
        num_tokens: Calibration tokens seen.
        origin: What the scores were made from: hashes of model, tokenizer and data, and every setting.
    """

    hidden_size: ScoreArray | None
    intermediate_size: Mapping[int, ScoreArray]
    mamba: Mapping[int, ScoreArray]
    num_attention_heads: Mapping[int, ScoreArray]
    depth: ScoreArray
    removed: tuple[int, ...] = ()
    num_samples: int
    num_tokens: int
    origin: Mapping[str, Any] = field(default_factory=dict)


def stale_parts(origin: Mapping[str, Any], expected: Mapping[str, Any], *, where: str = "") -> list[str]:
    """What differs between what scores were made from and what is at hand now, a line each.

    >>> stale_parts({"seed": 0, "data": {"a": 1}}, {"seed": 1, "data": {"a": 1}})
    ['seed was 0 and is 1']
    """
    lines = []
    for key in sorted({*origin, *expected}):
        before, now = origin.get(key), expected.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += stale_parts(before, now, where=f"{where}{key}.")
        elif before != now:
            lines.append(f"{where}{key} was {before} and is {now}")
    return lines


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
    partial = path.with_name(path.name + ".partial")
    save_file(arrays, partial, metadata={"minitron": json.dumps(described)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_scores(path: Path) -> Scores:
    """Reads scores back.

    Raises:
        ValueError: The file is missing or is not a scores file.
    """
    try:
        with safe_open(path, framework="np") as file:
            described = json.loads((file.metadata() or {})["minitron"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return Scores(
            hidden_size=arrays.get("hidden_size"),
            intermediate_size=_by_layer(arrays, "intermediate_size."),
            mamba=_by_layer(arrays, "mamba."),
            num_attention_heads=_by_layer(arrays, "num_attention_heads."),
            depth=arrays["depth"],
            removed=tuple(described["removed"]),
            num_samples=described["num_samples"],
            num_tokens=described["num_tokens"],
            origin=described["origin"],
        )
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"a scores file is expected at {path}: {error}") from error


def random_scores(shape: HybridShape, *, seed: int) -> Scores:
    """Scores drawn at random: the baseline that every real score must beat."""
    rng = np.random.default_rng(seed)
    return Scores(
        hidden_size=rng.random(shape.hidden_size),
        intermediate_size={layer: rng.random(shape.intermediate_size) for layer in shape.layers_of("-")},
        mamba={layer: rng.random((shape.mamba_num_heads, shape.mamba_head_dim)) for layer in shape.layers_of("M")},
        depth=rng.random(shape.num_hidden_layers),
        num_attention_heads={layer: rng.random(shape.num_attention_heads) for layer in shape.layers_of("*")},
        num_samples=0,
        num_tokens=0,
    )


def _by_layer(arrays: Mapping[str, ScoreArray], prefix: str) -> dict[int, ScoreArray]:
    layers = sorted(int(name.removeprefix(prefix)) for name in arrays if name.startswith(prefix))
    return {layer: arrays[f"{prefix}{layer}"] for layer in layers}
