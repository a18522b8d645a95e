"""Tensors of quantized checkpoints beside the declared ones, found by configuration and headers alone.

Source of names and layouts: nvidia-modelopt 0.47, modelopt/torch/export (unified Hugging Face checkpoint);
compressed-tensors 0.20.0, compressors/pack_quantized and compressors/naive_quantized.
"""

from collections.abc import Collection
from dataclasses import dataclass

COMPRESSED_TENSORS = "compressed-tensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedLayout:
    """How files hold a quantized matrix.

    Attributes:
        weight: What its numbers are called behind the name of its module.
        scales: What may lie beside them.
        packed_dtype: safetensors dtype of a number that holds several of the matrix; None where each has its own.
        packed_dim: The dim along which these lie.
        packed: How many they are.
    """

    weight: str = "weight"
    scales: tuple[str, ...]
    packed_dtype: str | None = None
    packed_dim: int = 0
    packed: int = 1


# Of keys and values that engines keep in fewer bits, which their projections or the attention itself have.
CACHE_SCALES = ("k_scale", "v_scale", "kv_scale")
_MODELOPT_SCALES = ("weight_scale", "input_scale", "pre_quant_scale")
# The precision of the memory model -> its layout.
LAYOUTS = {
    "fp8": QuantizedLayout(scales=_MODELOPT_SCALES),
    "int8": QuantizedLayout(scales=_MODELOPT_SCALES),
    "int4": QuantizedLayout(scales=_MODELOPT_SCALES, packed_dtype="U8", packed_dim=0, packed=2),
    "nvfp4": QuantizedLayout(
        scales=("weight_scale", "weight_scale_2", "input_scale"), packed_dtype="U8", packed_dim=1, packed=2
    ),
    "w8a8": QuantizedLayout(scales=("weight_scale",)),
    "w4a16": QuantizedLayout(
        weight="weight_packed", scales=("weight_scale", "weight_shape"), packed_dtype="I32", packed_dim=1, packed=8
    ),
}
# ModelOpt's name of an algorithm, and the name of a format in compressed-tensors -> the precision of the memory model.
MODELOPT_FORMATS = {"FP8": "fp8", "W8A8_SQ_PER_CHANNEL": "int8", "W4A16_AWQ": "int4", "NVFP4": "nvfp4"}
COMPRESSED_FORMATS = {"int-quantized": "w8a8", "pack-quantized": "w4a16"}


def declared_names(weights_format: str, names: Collection[str]) -> dict[str, str]:
    """Name on disk -> declared name of the quantized matrices among them that files call otherwise."""
    spelling = LAYOUTS[weights_format].weight
    if spelling == "weight":
        return {}
    return {name: name.removesuffix(spelling) + "weight" for name in names if name.endswith(f".{spelling}")}


def scale_names(weights_format: str, names: Collection[str]) -> frozenset[str]:
    """The names, on disk, of what lies beside the numbers of a quantized matrix, and of the scales of a cache."""
    layout = LAYOUTS[weights_format]
    modules = {name.removesuffix(f".{layout.weight}") for name in names if name.endswith(f".{layout.weight}")}
    beside = {name for name in names if name.endswith(layout.scales) and name.rpartition(".")[0] in modules}
    return frozenset(beside | {name for name in names if name.rpartition(".")[2] in CACHE_SCALES})


def unpacked_shape(weights_format: str | None, dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the matrix that a stored tensor of this safetensors dtype and shape holds.

    >>> unpacked_shape("int4", "U8", (3, 128)), unpacked_shape("w4a16", "I32", (3, 16))
    ((6, 128), (3, 128))
    """
    layout = None if weights_format is None else LAYOUTS[weights_format]
    if layout is None or layout.packed_dtype != dtype or len(shape) != 2:
        return shape
    return tuple(size * (layout.packed if dim == layout.packed_dim else 1) for dim, size in enumerate(shape))
