"""Whether a model fits a memory budget, from its configuration or headers alone. Loads no torch."""

import logging
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.errors import MinitronError
from minitron.estimate.devices import DEVICES, Device, find_device, usable_bytes
from minitron.estimate.serving.fit import FitReport
from minitron.estimate.serving.fit import fit as fit_shape
from minitron.estimate.serving.memory import block_bytes
from minitron.estimate.serving.throughput import Lengths, predict_tokens_per_second
from minitron.estimate.serving.vllm_command import serve_command
from minitron.estimate.serving.workload import Workload
from minitron.models.config import read_config, shape_from_config
from minitron.models.shape import HybridShape
from minitron.units import GIB

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory that a model is held against.

    Attributes:
        device: The GPU.
        utilization: Share of its memory that may be used; the accounting's default when None.
        reserved_gib: GiB set aside for others.
    """

    device: Device
    utilization: float | None = None
    reserved_gib: float = 0.0


def fit(
    model: str | Path,
    *,
    gpu: str = "a10g",
    context: int = 131072,
    sequences: int = 1,
    weights: str | None = None,
    accounting: str = "plain",
) -> JsonObject:
    """Holds a model against a GPU's memory.

    Args:
        model: Checkpoint folder or `config.json`.
        gpu: Device profile (a10g, l4, rtx4090, a100-40g, a100-80g, h100, h200), or a CUDA device as `cuda:0`.
        context: Tokens that each sequence holds.
        sequences: Sequences held at once.
        weights: Precision of the weights (bf16, fp8, int8, int4, ...); as stored in a folder, else bf16, when None.
        accounting: plain counts what is stored, vllm counts cache blocks as the engine allocates them.

    Returns:
        What `minitron fit --json` prints: `fits`, `verdict`, `total_bytes`, `budget_bytes`, `max_context_tokens`, ...

    Raises:
        MinitronError: The model cannot be read, or there is no such GPU or precision.
    """
    workload = Workload(context_tokens=context, sequences=sequences, accounting=accounting)
    return fit_model(Path(model), workload, Memory(device=choose_device(gpu, None)), weights=weights)


def choose_device(
    gpu: str | None,
    memory_gib: float | None,
    *,
    bandwidth_gb_s: float | None = None,
    bf16_tflops: float | None = None,
) -> Device:
    """The GPU that is meant: a profile, a live CUDA device, or a memory with its rates; an A10G when nothing is said.

    Raises:
        MinitronError: A profile and numbers of one's own are given, or there is no such GPU.
    """
    if gpu is not None and memory_gib is not None:
        raise MinitronError("only one of --gpu and --memory-gib can be given")
    if memory_gib is not None:
        return Device(
            name="custom",
            visible_gib=memory_gib,
            bandwidth_gb_s=bandwidth_gb_s,
            bf16_tflops=bf16_tflops,
            source="the command line",
        )
    if bandwidth_gb_s is not None or bf16_tflops is not None:
        raise MinitronError("--bandwidth-gb-s and --bf16-tflops describe a GPU of --memory-gib")
    if gpu is not None and gpu.partition(":")[0] == "cuda":
        from minitron.runtime.cuda import live_device  # torch takes seconds to load and is needed nowhere else here

        name, total = live_device(gpu)
        product = name.removeprefix("NVIDIA ")
        bare = Device(name=name, visible_gib=total / GIB, source="torch on this machine")
        known = next((device for device in DEVICES.values() if product in device.product), bare)
        logger.info("%s is a %s with %d visible bytes, rates: %s", gpu, name, total, known.source)
        return replace(known, name=name, visible_gib=total / GIB)
    return find_device(gpu or "a10g")


def fit_model(
    model: Path, workload: Workload, memory: Memory, *, weights: str | None = None, lengths: Lengths | None = None
) -> JsonObject:
    """The verdict on a model as `minitron fit --json` prints it.

    Args:
        model: A checkpoint folder, a `config.json`, or a JSON file of a shape in the same keys.
        workload: What is to be served; its precision of weights is set here.
        memory: What it is held against.
        weights: Precision of the weights; when None, the bytes in a checkpoint's headers, and bf16 for a configuration.
        lengths: Tokens in and out, to predict throughput for.

    Raises:
        MinitronError: The model cannot be read, or there is no memory left for it.
    """
    if model.is_dir():
        checkpoint = open_checkpoint(model, quantized=True)
        quantized_as = checkpoint.weights_format
        shape, config = checkpoint.shape, checkpoint.config
        weights_bytes = checkpoint.weights_bytes if weights is None else None
        weights = weights or _stored_dtype(checkpoint)
    else:
        config = read_config(model)
        shape, weights_bytes, quantized_as = shape_from_config(config), None, None
    workload = replace(workload, weights_dtype=weights or "bf16")
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and workload.context_tokens > longest:
        logger.warning("config.json says max_position_embeddings %d, fewer than %d", longest, workload.context_tokens)
    budget_bytes = usable_bytes(
        memory.device.visible_bytes,
        utilization=memory.utilization,
        reserved_gib=memory.reserved_gib,
        accounting=workload.accounting,
    )
    report = fit_shape(shape, workload, budget_bytes, weights_bytes=weights_bytes)
    result: JsonObject = {"weights": workload.weights_dtype} | _contract(report) | _per_block(shape, workload)
    if workload.accounting == "vllm":
        folder = str(model if model.is_dir() else model.parent)
        words = serve_command(folder, workload, report, utilization=budget_bytes / memory.device.visible_bytes)
        if words is not None and quantized_as is not None and "--quantization" in words:
            # Online quantization is not meant: vLLM reads the folder's own quantization_config.
            at = words.index("--quantization")
            words = [*words[:at], *words[at + 2 :]]
        result["serve"] = None if words is None else shlex.join(words)
        if workload.weights_dtype in ("int8", "int4"):
            logger.warning("the line serves a checkpoint whose weights are %s already", workload.weights_dtype)
    if lengths is not None:
        result["tokens_per_s"] = predict_tokens_per_second(shape, workload, memory.device, lengths, budget_bytes)
    return result


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """The precision of a folder's weights; bf16 where they are mixed, of which the bytes are known all the same."""
    if checkpoint.weights_format is not None:
        return checkpoint.weights_format
    stored = {tensor.dtype for tensor in checkpoint.tensors.values()}
    return {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(stored.pop(), "bf16") if len(stored) == 1 else "bf16"


def _contract(report: FitReport) -> JsonObject:
    result: JsonObject = {
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
        result |= {
            "block_tokens": report.cache_blocks.block_tokens,
            "page_bytes": report.cache_blocks.page_bytes,
            "num_blocks": report.num_cache_blocks,
            "blocks_per_sequence": report.cache_blocks.blocks_per_sequence,
        }
    return result


def _per_block(shape: HybridShape, workload: Workload) -> JsonObject:
    found = block_bytes(shape, workload)
    return {"blocks": {kind: {"count": shape.count(kind), **asdict(memory)} for kind, memory in found.items()}}
