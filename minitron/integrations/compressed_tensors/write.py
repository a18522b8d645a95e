"""Streams a checkpoint into the compressed-tensors format: a tensor at a time, with what engines read beside it.

Source of names, types and keys: compressed-tensors 0.20.0 (compressors/, quantization/quant_config.py), and what vLLM
0.32.0 takes of them (model_executor/layers/quantization/compressed_tensors/).
"""

from collections.abc import Callable
from pathlib import Path

import torch

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.quantized import COMPRESSED_FORMATS, COMPRESSED_TENSORS, LAYOUTS
from minitron.checkpoints.weights import open_weights, write_weights
from minitron.checkpoints.writing.shard_plan import Described
from minitron.dtypes import DTYPES
from minitron.errors import CheckpointError
from minitron.estimate.precision import WEIGHT_FORMATS, quantized_matrices, scale_group
from minitron.integrations.compressed_tensors.rounding import (
    group_scales,
    packed_groups,
    rounded_rows,
    row_scales,
)
from minitron.integrations.quantize.folder import check_ignored, export_dtype, unquantized_modules, write_beside
from minitron.runtime.dtypes import torch_dtype


def write_compressed(source: Checkpoint, precision: str, folder: Path) -> Checkpoint:
    """Writes a checkpoint as w8a8 or w4a16 and opens it.

    Beside the tensor that is being written, only the scales are held in memory.

    Args:
        source: The checkpoint, not quantized.
        precision: Name of the format in the memory model.
        folder: Where the result is put together.

    Raises:
        CheckpointError: A weight is not finite.
    """
    shape = source.shape
    sizes = [shape.sizes_at(layer) for layer in range(shape.num_hidden_layers)]  # FFN widths may differ by block
    group = min(scale_group(shape.family, shape.counts, each, WEIGHT_FORMATS[precision]) for each in sizes)
    with open_weights(source) as read:
        tensors = _Quantized(source, precision, group, read)
        write_weights(folder, tensors.planned, tensors.read)
    write_beside(source, folder, quantization_config(precision, group, unquantized_modules(shape)))
    written = open_checkpoint(folder, quantized=True)
    check_ignored(written, {"quantization_config.ignore": written.config["quantization_config"]["ignore"]})
    return written


def quantization_config(precision: str, group: int, ignored: list[str]) -> JsonObject:
    """What `config.json` says of the weights: one scheme for all linear layers but those that are ignored."""
    name = next(name for name, found in COMPRESSED_FORMATS.items() if found == precision)
    bits = WEIGHT_FORMATS[precision].bits
    by_token = _arguments(bits=8, strategy="token", dynamic=True)
    weights = _arguments(bits=bits, strategy="group" if group else "channel", dynamic=False, group=group)
    scheme: JsonObject = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": by_token if precision == "w8a8" else None,
        "output_activations": None,
        "format": name,
    }
    return {
        "quant_method": COMPRESSED_TENSORS,
        "format": name,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": [*ignored],
        "kv_cache_scheme": None,
    }


def _arguments(*, bits: int, strategy: str, dynamic: bool, group: int = 0) -> JsonObject:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": strategy,
        "group_size": group or None,
        "dynamic": dynamic,
    }


class _Quantized:
    """The tensors of the quantized checkpoint, each made when it is written.

    Attributes:
        planned: Name on disk -> safetensors dtype and shape, in the source's order.
    """

    def __init__(self, source: Checkpoint, precision: str, group: int, read: Callable[[str], torch.Tensor]) -> None:
        self._read, self._group, self._precision = read, group, precision
        self._dtype = torch_dtype(export_dtype(source))
        self._matrices = quantized_matrices(source.shape)
        self._scales: dict[str, torch.Tensor] = {}
        self.planned: dict[str, Described] = {}
        specs, kept = source.shape.tensors(), str(DTYPES[export_dtype(source)].safetensors)
        for name, stored in source.tensors.items():
            if name in self._matrices:
                self.planned |= self._described(name, kept)
            else:
                # Engines add it to scores in fp32.
                wide = specs[name].routes and len(specs[name].dims) == 1
                self.planned[name] = ("F32" if wide else kept, stored.shape)

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the quantized checkpoint by its name on disk."""
        module, _, what = name.rpartition(".")
        matrix = f"{module}.weight"
        if matrix not in self._matrices:
            return self._read(name).to(torch_dtype(self.planned[name][0]))
        if what == "weight_shape":
            return torch.tensor(self._matrices[matrix])
        if what == "weight_scale":
            return self._scale(matrix)
        weight_RC = self._weight(matrix)
        if self._group:
            return packed_groups(weight_RC, self._scale(matrix))
        return rounded_rows(weight_RC, self._scale(matrix))

    def _described(self, name: str, kept: str) -> dict[str, Described]:
        module, (rows, columns) = name.removesuffix(".weight"), self._matrices[name]
        if not self._group:
            return {name: ("I8", (rows, columns)), f"{module}.weight_scale": ("F32", (rows, 1))}
        layout = LAYOUTS[self._precision]
        return {
            f"{module}.{layout.weight}": (str(layout.packed_dtype), (rows, columns // layout.packed)),
            f"{module}.weight_scale": (kept, (rows, columns // self._group)),
            f"{module}.weight_shape": ("I64", (2,)),
        }

    def _weight(self, name: str) -> torch.Tensor:
        return self._read(name).to(self._dtype)

    def _scale(self, name: str) -> torch.Tensor:
        if name not in self._scales:
            weight_RC = self._weight(name)
            scale = group_scales(weight_RC, self._group, self._dtype) if self._group else row_scales(weight_RC)
            if not bool(scale.isfinite().all()):
                raise CheckpointError(f"weights must be finite to be quantized, {name} holds one that is not")
            self._scales[name] = scale
        return self._scales[name]
