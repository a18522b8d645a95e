"""What a quantized checkpoint's folder holds beside its tensors: configuration, tokenizer, and lists that are true."""

import logging
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from minitron.artifacts.header import HEADER_FILE, MARKER_FILE
from minitron.artifacts.json_files import JsonObject, write_json
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.weights import carry_files
from minitron.dtypes import DTYPES
from minitron.errors import MinitronError
from minitron.estimate.precision import quantized_matrices
from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape

MEASURED_FILE = "quantization.json"

logger = logging.getLogger(__name__)


def export_dtype(source: Checkpoint) -> str:
    """Number format of what is not quantized: fp16 where all of the source's tensors are, else bf16."""
    return "fp16" if {tensor.dtype for tensor in source.tensors.values()} == {"F16"} else "bf16"


def write_beside(
    source: Checkpoint, folder: Path, quantization_config: JsonObject, *, without: Collection[str] = ()
) -> None:
    """Writes the source's configuration, with how the weights are quantized, and carries its other files along.

    Args:
        source: The checkpoint that was quantized.
        folder: Where the quantized one is put together.
        quantization_config: What engines read of it in `config.json`.
        without: Further files that are not carried along.
    """
    carry_files(source, folder, without=(HEADER_FILE, MARKER_FILE, MEASURED_FILE, *without))
    config = config_for_shape(source.config, source.shape)
    config.pop("torch_dtype", None)
    count = source.shape.family.extra_count
    if source.extras and count is not None:
        logger.warning("%s: layers that predict further tokens are left out", folder)
        config[count] = 0
    config |= {"dtype": DTYPES[export_dtype(source)].torch, "quantization_config": quantization_config}
    write_json(folder / "config.json", config)


def unquantized_modules(shape: HybridShape) -> list[str]:
    """Modules whose matrices are not quantized, by their names on disk, a head that is the embeddings among them."""
    quantized = quantized_matrices(shape)
    kept = [name for name, spec in shape.tensors().items() if len(spec.dims) == 2 and name not in quantized]
    return [name.removesuffix(".weight") for name in dict.fromkeys([*kept, shape.family.head])]


def check_ignored(written: Checkpoint, lists: Mapping[str, Sequence[str]]) -> None:
    """Checks that lists name real modules, every matrix that is not quantized, and none that is.

    Args:
        written: The quantized checkpoint.
        lists: Where a list stands -> modules, or patterns of them, that are not quantized.

    Raises:
        MinitronError: A list breaks the rule.
    """
    # A head that is the embeddings, too, is a module that no file holds.
    names = {*written.tensors, written.shape.family.head}
    modules = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    quantized = {name.removesuffix(".weight") for name in written.tensors if written.is_quantized(name)}
    matrices = {name.removesuffix(".weight") for name, spec in written.shape.tensors().items() if len(spec.dims) == 2}
    for where, listed in lists.items():
        _check_list(where, listed, modules, quantized, matrices)


def _check_list(where: str, names: Sequence[str], modules: set[str], quantized: set[str], matrices: set[str]) -> None:
    covered = {name: {module for module in modules if fnmatchcase(module, name)} for name in names}
    empty = sorted(name for name, found in covered.items() if not found)
    if empty:
        raise MinitronError(f"{where} must name modules of the checkpoint, {empty[0]!r} is none")
    ignored = set().union(*covered.values())
    if ignored & quantized:
        raise MinitronError(f"{where} must not name quantized modules, it names {min(ignored & quantized)}")
    missing = matrices - quantized - ignored
    if missing:
        raise MinitronError(f"{where} must name every matrix that is not quantized, it lacks {min(missing)}")
