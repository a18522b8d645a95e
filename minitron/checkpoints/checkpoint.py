"""Opens checkpoint folders from their headers alone, and checks them whole before their tensors are used."""

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitron.artifacts.hashes import file_hash
from minitron.artifacts.header import HEADER_FILE
from minitron.artifacts.paths import leads_astray
from minitron.checkpoints.aside import leave_out_tied_head, left_out
from minitron.checkpoints.headers import StoredTensor, read_headers
from minitron.checkpoints.quantization import find_quantization
from minitron.checkpoints.quantized import LAYOUTS, declared_names, scale_names, unpacked_shape
from minitron.checkpoints.spellings import PUBLISHED, Spelling, published_names
from minitron.errors import CheckpointError
from minitron.models.config import read_config, shape_from_config
from minitron.models.shape import HybridShape

CARD_FILE = "README.md"
LINEAGE_FILE = "lineage.json"
# What is written anew for each checkpoint, and is neither its weights nor its tokenizer.
PLAN_FILE = "prune.plan"  # not .safetensors, which engines would load as weights
VOCABULARY_FILE = "vocabulary.json"  # what a cut of the vocabulary did
STUDENTS_FILE = "students.json"
ABOUT_FILES = (CARD_FILE, LINEAGE_FILE, PLAN_FILE, VOCABULARY_FILE, STUDENTS_FILE, HEADER_FILE)
# Weight and code-repository files: everything else in a folder (tokenizer, templates) is carried along as it is.
WEIGHT_SUFFIXES = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        folder: Where it lies.
        config: Its `config.json`, as it stands.
        shape: The shape that the configuration describes and the tensors agree with.
        tensors: Declared name -> stored tensor, of the tensors that the family declares.
        extras: Stored tensors beside the model, which transformers leaves out (layers that predict further tokens).
        weights_format: Precision that the blocks' matrices are quantized to; None where they are not.
        scales: Name on disk -> stored scale of a quantized weight, or what else lies beside it.
        spelling: What its files call its tensors, where that is not by their published names.
    """

    folder: Path
    config: Mapping[str, Any]
    shape: HybridShape
    tensors: Mapping[str, StoredTensor]
    extras: Mapping[str, StoredTensor] = field(default_factory=dict)
    weights_format: str | None = None
    scales: Mapping[str, StoredTensor] = field(default_factory=dict)
    spelling: Spelling = PUBLISHED

    def stored(self, name: str) -> StoredTensor:
        """One tensor of the model, one beside it, or a scale."""
        return next(found[name] for found in (self.tensors, self.extras, self.scales) if name in found)

    def name_on_disk(self, name: str) -> str:
        """What the files call a tensor: by its declared name, but for packed numbers."""
        if self.weights_format is None or name not in self.tensors or not self.is_quantized(name):
            return self.spelling.on_disk.get(name, name)
        return f"{name.removesuffix('.weight')}.{LAYOUTS[self.weights_format].weight}"

    def name_to_write(self, name: str) -> str:
        """What the files of a checkpoint that is made from this one call a tensor."""
        return self.spelling.to_write(self.shape.family, name)

    def is_quantized(self, name: str) -> bool:
        """Whether a tensor of the model is stored as numbers that mean nothing without their scales."""
        return f"{name.removesuffix('.weight')}.weight_scale" in self.scales

    @property
    def params(self) -> int:
        """Parameters counted from the headers, scales left out."""
        shapes = (unpacked_shape(self.weights_format, each.dtype, each.shape) for each in self.tensors.values())
        return sum(math.prod(shape) for shape in shapes)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the declared tensors and their scales as stored."""
        return sum(tensor.nbytes for tensor in (*self.tensors.values(), *self.scales.values()))


def open_checkpoint(folder: Path, *, quantized: bool = False, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Opens a checkpoint folder (one safetensors file, or shards with an index) and checks it.

    Args:
        folder: The folder.
        quantized: Take a quantized one, too, whose stored numbers mean nothing without their scales.
        config: The configuration, where the folder does not hold it yet; read when None.

    Raises:
        CheckpointError: Anything is missing, truncated, outside the folder, or at odds with the configuration.
    """
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint folder not found: {folder}")
    _check_links(folder)
    config = read_config(folder) if config is None else config
    shape = shape_from_config(config)
    weights_format = _weights_format(folder, config, quantized=quantized)
    stored: Mapping[str, StoredTensor] = read_headers(folder)
    spelling, scales = PUBLISHED, frozenset[str]()
    if weights_format is None:
        stored, spelling = published_names(stored, shape)
    if weights_format is not None:
        scales = scale_names(weights_format, stored)
        stored = _with_declared_names(folder, stored, declared_names(weights_format, stored))
    prefix = shape.family.extra_prefix
    extras = {name: tensor for name, tensor in stored.items() if prefix and name.startswith(prefix)}
    aside = {*extras, *scales, *left_out(folder, stored, shape.family)}
    tensors = {name: tensor for name, tensor in stored.items() if name not in aside}
    if shape.head_tensor != shape.family.head:
        leave_out_tied_head(folder, tensors, shape)
    _check_against_shape(folder, tensors, shape, weights_format)
    return Checkpoint(
        folder=folder,
        config=config,
        shape=shape,
        tensors=tensors,
        extras=extras,
        weights_format=weights_format,
        scales={name: stored[name] for name in sorted(scales)},
        spelling=spelling,
    )


def _weights_format(folder: Path, config: Mapping[str, Any], *, quantized: bool) -> str | None:
    found = find_quantization(config, folder)
    if found is None:
        return None
    if not quantized:
        raise CheckpointError(
            f"the weights must not be quantized here, those of {folder} are {found.layout or 'quantized'} "
            f"({found.method}); give the checkpoint they were made from"
        )
    if found.layout is None:
        raise CheckpointError(
            f"quantized weights must be {', '.join(LAYOUTS)} to be read, those of {folder} are of {found.method}; "
            "`minitron fit` counts their bytes all the same"
        )
    return found.layout


def carried_files(folder: Path) -> list[Path]:
    """The files that pruning carries along unchanged: tokenizer, templates, generation config."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.endswith(WEIGHT_SUFFIXES) and path.name not in ("config.json", *ABOUT_FILES)
    )


def _check_links(folder: Path) -> None:
    """Refuses a folder with a link to what is no file of a checkpoint: what is carried along would be published."""
    astray = sorted(path.name for path in folder.iterdir() if leads_astray(path))
    if astray:
        raise CheckpointError(
            f"links of a checkpoint must lead to its own files or to files of a checkpoint of the same names, "
            f"{astray[0]!r} of {folder} leads elsewhere; put the file there, or remove the link"
        )


def left_behind(checkpoint: Checkpoint) -> list[str]:
    """What lies beside a checkpoint that a changed one does not carry: folders, and weights that are not its own."""
    own = {stored.file.name for stored in (*checkpoint.tensors.values(), *checkpoint.extras.values())}
    own |= {f"{name}.index.json" for name in (*own, "model.safetensors")}
    carried = {path.name for path in carried_files(checkpoint.folder)}
    known = {"config.json", *ABOUT_FILES, *own, *carried}
    beside = [path for path in checkpoint.folder.iterdir() if path.name not in known and path.name != ".cache"]
    return sorted(f"{path.name}/" if path.is_dir() else path.name for path in beside)


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's model (weights and configuration) and of its other files (the tokenizer's).

    Each covers the names and contents of its files; what a checkpoint says of itself counts for nothing.
    """
    others = carried_files(folder)
    names = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in ABOUT_FILES)
    model = [path for path in names if path not in others]
    return {"model": _hash_files(model), "tokenizer": tokenizer_hash(folder)}


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 of what a checkpoint carries beside its model; the weights are not read."""
    return _hash_files(carried_files(folder))


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


def _with_declared_names(
    folder: Path, stored: Mapping[str, StoredTensor], declared: Mapping[str, str]
) -> dict[str, StoredTensor]:
    twice = sorted(set(declared.values()) & stored.keys())
    if twice:
        raise CheckpointError(f"a matrix must be stored once, {folder} holds {twice[0]} both packed and not")
    return {declared.get(name, name): tensor for name, tensor in stored.items()}


def _check_against_shape(
    folder: Path, tensors: Mapping[str, StoredTensor], shape: HybridShape, weights_format: str | None
) -> None:
    shapes = shape.tensor_shapes()
    missing = sorted(set(shapes) - set(tensors))
    unknown = sorted(set(tensors) - set(shapes))
    for fault, names in (("lacks", missing), ("holds the undeclared", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"tensors must be those of the configuration, {folder} {fault} {names[0]}{more}")
    for name, declared in shapes.items():
        if unpacked_shape(weights_format, tensors[name].dtype, tensors[name].shape) != declared:
            raise CheckpointError(
                f"{name} must have the shape {declared} that the configuration implies, "
                f"{tensors[name].file} stores {tensors[name].shape}"
            )
