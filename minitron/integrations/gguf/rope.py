"""Rotary positions: the configuration's kind as keys of a GGUF file, and the table of Llama 3.1.

Source of the kinds: transformers 5.23, modeling_rope_utils.py. llama.cpp computes linear and yarn by itself and reads
the divisors of Llama 3.1's frequencies from a tensor.
"""

import json
import math

import numpy as np

from minitron.errors import MinitronError
from minitron.integrations.gguf.family import Config, Fp32, Value, read_number
from minitron.models.shape import HybridShape

KINDS = ("default", "linear", "yarn", "llama3")
# What may change yarn beyond what llama.cpp computes, unless it is left out.
YARN_BEYOND = ("attention_factor", "mscale", "mscale_all_dim", "truncate")
DEFAULT_THETA = 10000.0


def rope_keys(
    config: Config, *, tables: bool = False, theta: float = DEFAULT_THETA, partial: bool = False
) -> dict[str, Value]:
    """The keys of a configuration's rotary positions.

    Args:
        config: The configuration.
        tables: Whether llama.cpp reads a table of divisors for this architecture.
        theta: What transformers takes where none is given.
        partial: Whether they may turn a part of each head's channels.

    Raises:
        MinitronError: The kind, or a setting of it, is one that llama.cpp does not compute.
    """
    settings = _settings(config)
    kind = _kind(settings)
    if kind not in KINDS or (kind == "llama3" and not tables):
        known = ", ".join(each for each in KINDS if tables or each != "llama3")
        raise MinitronError(f"rope_type in config.json must be one of {known} for llama.cpp, got {kind!r}")
    if not partial and read_number(settings, "partial_rotary_factor", 1.0) != 1.0:
        raise MinitronError(
            "partial_rotary_factor in config.json must be 1 to be exported, "
            f"got {json.dumps(settings['partial_rotary_factor'])}"
        )
    found: dict[str, Value] = {"rope.freq_base": float(read_number(settings, "rope_theta", theta))}
    if kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": _needed(settings, "factor")}
    if kind == "yarn":
        found |= _yarn_keys(config, settings)
    return found


def read_partial_factor(config: Config, default: float) -> float:
    """The share of a head's channels that are turned."""
    return float(read_number(_settings(config), "partial_rotary_factor", default))


def llama3_factors(shape: HybridShape, config: Config) -> Fp32 | None:
    """Divisors [head_dim / 2] of the rotary frequencies of a Llama 3.1; None for other kinds.

    Frequencies of wavelengths up to `original / high_freq_factor` stay, beyond `original / low_freq_factor` they are
    divided by `factor`, and in between interpolated.
    """
    settings = _settings(config)
    if _kind(settings) != "llama3":
        return None
    theta = read_number(settings, "rope_theta", DEFAULT_THETA)
    factor, low, high = (_needed(settings, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = _original_length(config, settings)
    frequencies = theta ** -(np.arange(0, shape.head_dim, 2) / shape.head_dim)
    wavelengths = 2 * math.pi / frequencies
    kept = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return (1 / (kept + (1 - kept) / factor)).astype(np.float32)


def _settings(config: Config) -> Config:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise MinitronError(f"rope_parameters in config.json must be one object for all layers, got {found!r}")
    above = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if config.get(key) is not None}
    return {**above, **found}


def _kind(settings: Config) -> str:
    return str(settings.get("rope_type") or settings.get("type") or "default")


def _yarn_keys(config: Config, settings: Config) -> dict[str, Value]:
    beyond = [key for key in YARN_BEYOND if settings.get(key) not in (None, True)]
    if beyond:
        raise MinitronError(
            f"yarn must be without {', '.join(YARN_BEYOND)} in config.json to be exported, it has {beyond[0]}"
        )
    return {
        "rope.scaling.original_context_length": int(_original_length(config, settings)),
        "rope.scaling.yarn_beta_fast": float(read_number(settings, "beta_fast", 32.0)),
        "rope.scaling.yarn_beta_slow": float(read_number(settings, "beta_slow", 1.0)),
    }


def _original_length(config: Config, settings: Config) -> float:
    # transformers takes the one beside the settings first.
    for place in (config, settings):
        if place.get("original_max_position_embeddings") is not None:
            return read_number(place, "original_max_position_embeddings", 0)
    return _needed(config, "max_position_embeddings")


def _needed(settings: Config, key: str) -> float:
    if settings.get(key) is None:
        raise MinitronError(f"rotary positions in config.json must give {key}, they do not")
    return float(read_number(settings, key, 0))
