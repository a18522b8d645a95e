"""Scores: what a calibration says of every unit of a model, as named arrays that can be saved and compared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from minitron.hybrid.shape import HybridShape

ScoreArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Importance of a model's units; larger means keep.

    Attributes:
        hidden_size: [D], summed over the blocks.
        intermediate_size: Layer of an MLP block -> [F].
        mamba: Layer of a Mamba block -> [H, P], the statistic of each channel of each head; head and channel scores
            follow from it.
        depth: [L], one score a block.
        num_samples: Calibration samples seen.
        num_tokens: Calibration tokens seen.
    """

    hidden_size: ScoreArray
    intermediate_size: Mapping[int, ScoreArray]
    mamba: Mapping[int, ScoreArray]
    depth: ScoreArray
    num_samples: int
    num_tokens: int


def save_scores(scores: Scores, path: Path) -> None:
    """Writes scores as one safetensors file."""
    arrays: dict[str, ScoreArray] = {"hidden_size": scores.hidden_size, "depth": scores.depth}
    arrays |= {f"intermediate_size.{layer}": score_F for layer, score_F in scores.intermediate_size.items()}
    arrays |= {f"mamba.{layer}": score_HP for layer, score_HP in scores.mamba.items()}
    counts = {"num_samples": scores.num_samples, "num_tokens": scores.num_tokens}
    save_file(arrays, path, metadata={"minitron": json.dumps(counts)})


def load_scores(path: Path) -> Scores:
    """Reads scores back.

    Raises:
        ValueError: The file is missing or is not a scores file.
    """
    try:
        with safe_open(path, framework="np") as file:
            counts = json.loads((file.metadata() or {})["minitron"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"a scores file is expected at {path}: {error}") from error
    return Scores(
        hidden_size=arrays["hidden_size"],
        intermediate_size=_by_layer(arrays, "intermediate_size."),
        mamba=_by_layer(arrays, "mamba."),
        depth=arrays["depth"],
        **counts,
    )


def random_scores(shape: HybridShape, *, seed: int) -> Scores:
    """Scores drawn at random: the baseline that every real score must beat."""
    rng = np.random.default_rng(seed)
    return Scores(
        hidden_size=rng.random(shape.hidden_size),
        intermediate_size={layer: rng.random(shape.intermediate_size) for layer in shape.layers_of("-")},
        mamba={layer: rng.random((shape.mamba_num_heads, shape.mamba_head_dim)) for layer in shape.layers_of("M")},
        depth=rng.random(shape.num_hidden_layers),
        num_samples=0,
        num_tokens=0,
    )


def _by_layer(arrays: Mapping[str, ScoreArray], prefix: str) -> dict[int, ScoreArray]:
    layers = sorted(int(name.removeprefix(prefix)) for name in arrays if name.startswith(prefix))
    return {layer: arrays[f"{prefix}{layer}"] for layer in layers}
