"""Whether a checkpoint or a configuration fits a device's memory: the answer of `minitron fit`."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonObject, JsonValue
from minitron.checkpoints.hub import hub_origin
from minitron.estimate.devices import Device, usable_bytes
from minitron.estimate.precision import WEIGHT_FORMATS
from minitron.estimate.serving.fit import FitReport, fit
from minitron.estimate.serving.memory import MemoryBytes, block_bytes, prefix_caching_bytes
from minitron.estimate.serving.stored import stored_weights
from minitron.estimate.serving.throughput import predict_tokens_per_second
from minitron.estimate.serving.vllm_command import longest_context, serve_command
from minitron.estimate.serving.workload import Lengths, Workload
from minitron.models.config import read_config, shape_from_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory that a model is to fit.

    Attributes:
        device: The GPU.
        utilization: Fraction of its memory that may be used; the accounting's default when None.
        reserved_gib: GiB reserved for others.
    """

    device: Device
    utilization: float | None = None
    reserved_gib: float = 0.0

    def budget_bytes(self, accounting: str) -> int:
        """Bytes that a model may need in total."""
        return usable_bytes(
            self.device.visible_bytes,
            utilization=self.utilization,
            reserved_gib=self.reserved_gib,
            accounting=accounting,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFit:
    """Whether a model fits, and what it takes.

    Attributes:
        weights_dtype: Number format of the weights.
        report: The verdict.
        block_kinds: Letter of a kind of block -> what it is.
        block_counts: Letter of a kind of block -> how many there are.
        block_memory: Letter of a kind of block -> bytes of one such block.
        serve: The `vllm serve` command; None by plain accounting, and where none starts within the budget.
        by_vllm: Whether vLLM's accounting was used.
        prefix_caching_bytes: What sharing prefixes takes, and turning it off saves; 0 where it is off.
        tokens_per_s: Predicted output tokens a second; None where no lengths were given.
    """

    weights_dtype: str
    report: FitReport
    block_kinds: Mapping[str, str]
    block_counts: Mapping[str, int]
    block_memory: Mapping[str, MemoryBytes]
    serve: str | None = None
    by_vllm: bool = False
    prefix_caching_bytes: int = 0
    tokens_per_s: float | None = None

    def to_json(self) -> JsonObject:
        """The object that `minitron fit --json` prints."""
        report = self.report
        found: JsonObject = {
            "weights": self.weights_dtype,
            "params": report.params,
            **asdict(report.memory),
            "workspace_low_bytes": report.workspace_low_bytes,
            "budget_bytes": report.budget_bytes,
            "fits": report.fits,
            "verdict": report.verdict,
            "headroom_bytes": report.headroom_bytes,
            "max_context_tokens": report.max_context_tokens,
            "max_sequences": report.max_sequences,
        }
        if report.cache_blocks is not None:
            found["block_tokens"] = report.cache_blocks.block_tokens
            found["page_bytes"] = report.cache_blocks.page_bytes
            found["num_blocks"] = report.num_cache_blocks
            found["blocks_per_sequence"] = report.cache_blocks.blocks_per_sequence
        blocks: dict[str, JsonValue] = {
            kind: {"count": self.block_counts[kind], **asdict(memory)} for kind, memory in self.block_memory.items()
        }
        found["blocks"] = blocks
        if self.by_vllm:
            found["prefix_caching_bytes"] = self.prefix_caching_bytes
            found["serve"] = self.serve
        if self.tokens_per_s is not None:
            found["tokens_per_s"] = self.tokens_per_s
        return found


def fit_model(
    model: Path, workload: Workload, memory: Memory, *, weights: str | None = None, lengths: Lengths | None = None
) -> ModelFit:
    """Whether a model fits a memory.

    Args:
        model: A checkpoint folder, a `config.json`, or a JSON file of a shape in the same keys.
        workload: What is served; its `weights_dtype` is set here.
        memory: What the model is to fit.
        weights: Number format of the weights; when None, the bytes in a checkpoint's headers, and for a configuration
            what it says of precision, bf16 where it says nothing.
        lengths: Tokens in and out to predict throughput for.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ShapeError: The configuration cannot be read.
        BudgetError: There is no memory left for the model.
    """
    config = read_config(model)
    shape = shape_from_config(config)
    found = stored_weights(model, config, shape)
    stored = found.nbytes if weights is None else None
    workload = workload.changed(weights_dtype=weights or found.dtype())
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and workload.context_tokens > longest:
        logger.warning("config.json says max_position_embeddings %d, fewer than %d", longest, workload.context_tokens)
    budget_bytes = memory.budget_bytes(workload.accounting)
    report = fit(shape, workload, budget_bytes, weights_bytes=stored)
    speed = None
    if lengths is not None:
        speed = predict_tokens_per_second(shape, workload, memory.device, lengths, budget_bytes)
    is_quantized = found.quantization is not None
    by_vllm = workload.accounting == "vllm"
    serve = None
    if by_vllm:
        folder = model if model.is_dir() else model.parent
        words = _serve_words(folder, workload, report, config, budget_bytes / memory.device.visible_bytes)
        serve = _serve_line(words, workload, is_quantized=is_quantized)
    return ModelFit(
        weights_dtype=workload.weights_dtype,
        report=report,
        block_kinds=shape.family.block_kinds,
        block_counts=shape.counts,
        block_memory=block_bytes(shape, workload),
        serve=serve,
        by_vllm=by_vllm,
        prefix_caching_bytes=prefix_caching_bytes(shape, workload) if by_vllm else 0,
        tokens_per_s=speed,
    )


def _serve_words(
    folder: Path, workload: Workload, report: FitReport, config: Mapping[str, object], utilization: float
) -> Sequence[str] | None:
    """The command as words; a checkpoint from the hub is named with its commit, since its weights may not be here."""
    origin = hub_origin(folder)
    name = str(folder) if origin is None else origin.repo
    words = serve_command(name, workload, report, utilization=utilization, longest=longest_context(config))
    return words if words is None or origin is None else [*words, "--revision", origin.commit]


def _serve_line(words: Sequence[str] | None, workload: Workload, *, is_quantized: bool) -> str | None:
    if words is not None and is_quantized and "--quantization" in words:
        # Online quantization is not meant: vLLM reads the folder's own quantization_config.
        at = words.index("--quantization")
        words = [*words[:at], *words[at + 2 :]]
    if WEIGHT_FORMATS[workload.weights_dtype].is_quantized and workload.weights_dtype != "fp8":
        logger.warning("the line serves a checkpoint whose weights are %s already", workload.weights_dtype)
    return None if words is None else shlex.join(words)
