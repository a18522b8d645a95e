"""Exports a checkpoint as a GGUF file: everything is planned and checked from headers and JSON, then written."""

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.block_width_classes import check_block_widths
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.integrations.gguf.families import gguf_family
from minitron.integrations.gguf.family import Value, check_values
from minitron.integrations.gguf.settings import ExportSettings, require_gguf
from minitron.integrations.gguf.tensors import GgufTensor, plan_tensors
from minitron.integrations.gguf.tokenizer import read_tokenizer
from minitron.integrations.gguf.writer import write_gguf

logger = logging.getLogger(__name__)

# Most of a file's bytes are of a type -> how llama.cpp numbers that (gguf 0.19, gguf/constants.py: LlamaFileType).
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
QUANTIZATION_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """A GGUF file before it is written.

    Attributes:
        architecture: llama.cpp's name of the model's architecture.
        metadata: Key -> value.
        tensors: What it holds, in order.
        params: Parameters of the checkpoint.
    """

    architecture: str
    metadata: dict[str, Value]
    tensors: list[GgufTensor]
    params: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported model.

    Attributes:
        output: The file.
        format: Its format.
        architecture: llama.cpp's name of the model's architecture.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer.
        params: Parameters of the checkpoint.
        tensors: Tensors in the file.
        types: Type -> how many tensors are of it: `q8_0`, `bf16`, `f16`, `f32`.
        bytes: Size of the file.
    """

    output: Path
    format: str
    architecture: str
    pre_tokenizer: str
    params: int
    tensors: int
    types: dict[str, int]
    bytes: int

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {
            "output": str(self.output),
            "format": self.format,
            "architecture": self.architecture,
            "pre_tokenizer": self.pre_tokenizer,
            "params": self.params,
            "tensors": self.tensors,
            "types": {**self.types},
            "bytes": self.bytes,
        }


def plan_export(checkpoint: Checkpoint, settings: ExportSettings) -> ExportPlan:
    """What the file will hold; no tensor is read.

    Raises:
        MinitronError: The family, a setting of the configuration, the tokenizer or a tensor cannot be exported.
    """
    shape, config = checkpoint.shape, checkpoint.config
    if shape.block_widths:
        check_block_widths(shape)
    family = gguf_family(shape.model_type)
    architecture = family.architecture(shape)
    check_values(family, config)
    keys = family.keys(shape, config)
    tokenizer = read_tokenizer(checkpoint.folder, config, shape.vocab_size, pre_tokenizer=settings.pre_tokenizer)
    tensors = plan_tensors(checkpoint, family, settings.dtype)
    sizes = Counter[str]()
    for tensor in tensors:
        sizes[tensor.type] += tensor.nbytes
    metadata: dict[str, Value] = {
        "general.type": "model",
        "general.name": checkpoint.folder.resolve().name,
        "general.file_type": FILE_TYPES[sizes.most_common(1)[0][0]],
        "general.quantization_version": QUANTIZATION_VERSION,
        **{f"{architecture}.{key}": value for key, value in keys.items()},
        **tokenizer.keys(),
    }
    return ExportPlan(architecture=architecture, metadata=metadata, tensors=tensors, params=checkpoint.params)


def export_checkpoint(checkpoint: Checkpoint, settings: ExportSettings, output: Path) -> Exported:
    """Writes a checkpoint as one file, whole or not at all. The model is never held in memory.

    Layers that predict further tokens are left out.

    Raises:
        MinitronError: The package gguf is missing, the checkpoint cannot be exported, or the file cannot be written.
    """
    started = time.monotonic()
    require_gguf()
    plan = plan_export(checkpoint, settings)
    if checkpoint.extras:
        logger.warning(
            "%s: %d tensors of layers that predict further tokens are left out",
            checkpoint.folder,
            len(checkpoint.extras),
        )
    nbytes = write_gguf(output, plan.architecture, plan.metadata, plan.tensors)
    logger.info("exported %d parameters, %d bytes, in %.1f s", plan.params, nbytes, time.monotonic() - started)
    return Exported(
        output=output,
        format=settings.format,
        architecture=plan.architecture,
        pre_tokenizer=str(plan.metadata["tokenizer.ggml.pre"]),
        params=plan.params,
        tensors=len(plan.tensors),
        types=dict(Counter(tensor.type.lower() for tensor in plan.tensors).most_common()),
        bytes=nbytes,
    )
