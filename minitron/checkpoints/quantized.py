"""Tensors of ModelOpt's quantized checkpoints beside the declared ones, found by configuration and headers alone.

Source of names and layouts: nvidia-modelopt 0.47, modelopt/torch/export (unified Hugging Face checkpoint).
"""

from collections.abc import Collection, Mapping
from typing import Any

from minitron.errors import CheckpointError

# ModelOpt's name of an algorithm -> the precision of the memory model.
FORMATS = {"FP8": "fp8", "W8A8_SQ_PER_CHANNEL": "int8", "W4A16_AWQ": "int4"}
SCALES = ("weight_scale", "input_scale", "pre_quant_scale")
PACKED_ROWS = 2  # two rows of an int4 matrix share the bytes of one stored row


def quantized_format(config: Mapping[str, Any]) -> str | None:
    """The precision that a configuration says its weights are quantized to; None where it says nothing of it.

    Raises:
        CheckpointError: It says something that is not known here.
    """
    given = config.get("quantization_config")
    if given is None:
        return None
    algorithm = given.get("quant_algo") if isinstance(given, Mapping) else given
    if algorithm not in FORMATS:
        raise CheckpointError(f"quantization_config.quant_algo must be one of {', '.join(FORMATS)}, got {algorithm!r}")
    return FORMATS[algorithm]


def scale_names(names: Collection[str]) -> frozenset[str]:
    """The names that are scales of a weight among them."""
    modules = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    return frozenset(name for name in names if name.endswith(SCALES) and name.rpartition(".")[0] in modules)


def is_packed(weights_format: str | None, dtype: str) -> bool:
    """Whether a stored tensor of this safetensors dtype holds two rows in one."""
    return weights_format == "int4" and dtype == "U8"
