"""What a configuration says of how its weights are quantized, by whichever tool, and which number format that is.

Files of the formats in `quantized.LAYOUTS` are read tensor by tensor; of all others only what they take is known.
Source of keys: transformers 5.23, utils/quantization_config.py; nvidia-modelopt 0.47, torch/export.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import read_json
from minitron.checkpoints.quantized import COMPRESSED_FORMATS, COMPRESSED_TENSORS, MODELOPT_FORMATS
from minitron.dtypes import StoredDtype, find_dtype
from minitron.errors import CheckpointError

# ModelOpt's second file, which is all that its older exports write.
BESIDE_FILE = "hf_quant_config.json"
MODELOPT = "modelopt"
# Formats of compressed-tensors that are not read here -> the nearest number format of the memory model.
NEAREST_COMPRESSED = {"float-quantized": "fp8", "naive-quantized": "fp8", "nvfp4-pack-quantized": "nvfp4"}
# Methods whose numbers are of one width, whatever else they say.
NEAREST_METHODS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "nvfp4"}
NEAREST_BITS = {4: "int4", 8: "int8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How weights are quantized.

    Attributes:
        method: What the configuration calls it, with its format.
        layout: The format whose files are read here; None where they are not.
        nearest: The format of the memory model that takes about as much; None where nothing is known of it.
    """

    method: str
    layout: str | None = None
    nearest: str | None = None


def find_quantization(config: Mapping[str, object], folder: Path | None = None) -> Quantization | None:
    """How a configuration, or ModelOpt's file beside it, says that the weights are quantized; None where none does.

    Raises:
        CheckpointError: What stands there is no object.
    """
    given = config.get("quantization_config")
    if given is None and folder is not None and (folder / BESIDE_FILE).is_file():
        beside = read_json(folder / BESIDE_FILE).get("quantization")
        given = {"quant_method": MODELOPT, **beside} if isinstance(beside, dict) else beside
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise CheckpointError(f"quantization_config must be an object with a quant_method, got {given!r}")
    method = str(given.get("quant_method") or (MODELOPT if "quant_algo" in given else "unknown"))
    if method == MODELOPT:
        return _modelopt(str(given.get("quant_algo")))
    if method == COMPRESSED_TENSORS:
        return _compressed(given)
    return _other(method, given)


def config_dtype(config: Mapping[str, object], quantization: Quantization | None) -> str:
    """Number format of the weights that a configuration alone describes; bf16 where it does not say.

    Raises:
        CheckpointError: They are quantized in a way of which nothing is known.
    """
    if quantization is not None:
        if quantization.nearest is None:
            raise CheckpointError(
                f"what weights quantized by {quantization.method} take is not known; give it with --weights, or give "
                "the folder, whose bytes are counted"
            )
        return quantization.nearest
    name = find_dtype(str(config.get("dtype") or config.get("torch_dtype")))
    return name if name in StoredDtype.__args__ else "bf16"  # type: ignore[attr-defined, return-value]


def _modelopt(algorithm: str) -> Quantization:
    layout = MODELOPT_FORMATS.get(algorithm)
    nearest = layout
    for word, name in (("NVFP4", "nvfp4"), ("W4", "int4"), ("INT4", "int4"), ("FP8", "fp8"), ("W8", "int8")):
        if nearest is None and word in algorithm:
            nearest = name
    return Quantization(method=f"{MODELOPT} {algorithm}", layout=layout, nearest=nearest)


def _compressed(given: Mapping[str, object]) -> Quantization:
    name, bits = str(given.get("format")), _compressed_bits(given)
    layout = COMPRESSED_FORMATS.get(name)
    if layout == "w4a16" and bits not in (None, 4):
        layout = None
    nearest = layout or NEAREST_COMPRESSED.get(name) or NEAREST_BITS.get(bits or 0)
    return Quantization(method=f"{COMPRESSED_TENSORS} {name}", layout=layout, nearest=nearest)


def _compressed_bits(given: Mapping[str, object]) -> int | None:
    groups = given.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        if isinstance(bits, int):
            return bits
    return None


def _other(method: str, given: Mapping[str, object]) -> Quantization:
    bits = given.get("bits")
    if method == "bitsandbytes":
        bits = 8 if given.get("load_in_8bit") else 4
    if method in NEAREST_METHODS:
        blocks = given.get("weight_block_size")
        listed = "x".join(map(str, blocks)) if isinstance(blocks, list) else ""
        described = f"{method} in blocks of {listed}" if listed else method
        return Quantization(method=described, nearest=NEAREST_METHODS[method])
    if not isinstance(bits, int):
        return Quantization(method=method)
    return Quantization(method=f"{method} ({bits} bits)", nearest=NEAREST_BITS.get(bits))
