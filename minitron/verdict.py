"""What `minitron fit` does with its arguments: a model and a memory in, the verdict out. Loads no torch."""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minitron.hybrid.checkpoint import open_checkpoint
from minitron.hybrid.config import read_config, shape_from_config
from minitron.hybrid.shape import HybridShape
from minitron.search import (
    DEFAULT_UTILIZATION,
    DEVICES,
    GIB,
    Device,
    FitReport,
    Lengths,
    Workload,
    block_bytes,
    find_device,
    fit,
    predict_tokens_per_second,
    serve_command,
    usable_bytes,
)

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


def choose_device(gpu: str | None, memory_gib: float | None) -> Device:
    """The GPU that is meant: a profile, a live CUDA device, or a bare memory; an A10G when nothing is said.

    Raises:
        ValueError: Both are given, or there is no such GPU.
    """
    if gpu is not None and memory_gib is not None:
        raise ValueError("only one of --gpu and --memory-gib can be given")
    if memory_gib is not None:
        return Device(name="custom", visible_gib=memory_gib, source="the command line")
    if gpu is not None and gpu.partition(":")[0] == "cuda":
        from minitron.hybrid.live import live_device  # torch takes seconds to load and is needed nowhere else here

        name, total = live_device(gpu)
        known = [device for device in DEVICES.values() if device.name.split("-")[0].upper() in name.upper().split()]
        rates = known[0] if len(known) == 1 else None
        logger.info("%s is a %s with %d visible bytes", gpu, name, total)
        return Device(
            name=name,
            visible_gib=total / GIB,
            bandwidth_gb_s=None if rates is None else rates.bandwidth_gb_s,
            bf16_tflops=None if rates is None else rates.bf16_tflops,
            fp8_tflops=None if rates is None else rates.fp8_tflops,
            source="torch on this machine",
        )
    return find_device(gpu or "a10g")


def fit_model(
    model: Path, workload: Workload, memory: Memory, *, weights: str | None = None, lengths: Lengths | None = None
) -> dict[str, Any]:
    """The verdict on a model as `minitron fit --json` prints it.

    Args:
        model: A checkpoint folder, a `config.json`, or a JSON file of a shape in the same keys.
        workload: What is to be served; its precision of weights is set here.
        memory: What it is held against.
        weights: Precision of the weights; when None, the bytes in a checkpoint's headers, and bf16 for a configuration.
        lengths: Tokens in and out, to predict throughput for.

    Raises:
        ValueError: The model cannot be read, or there is no memory left for it.
    """
    if model.is_dir():
        checkpoint = open_checkpoint(model)
        shape, config = checkpoint.shape, checkpoint.config
        weights_bytes = checkpoint.weights_bytes if weights is None else None
    else:
        config = read_config(model)
        shape, weights_bytes = shape_from_config(config), None
    workload = replace(workload, weights_dtype=weights or "bf16")
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and workload.context_tokens > longest:
        logger.warning("config.json says max_position_embeddings %d, fewer than %d", longest, workload.context_tokens)
    utilization = DEFAULT_UTILIZATION[workload.accounting] if memory.utilization is None else memory.utilization
    budget_bytes = usable_bytes(memory.device.visible_bytes, utilization=utilization, reserved_gib=memory.reserved_gib)
    report = fit(shape, workload, budget_bytes, weights_bytes=weights_bytes)
    result = _contract(report) | _per_block(shape, workload)
    if workload.accounting == "vllm":
        folder = str(model if model.is_dir() else model.parent)
        result["serve"] = " ".join(serve_command(folder, workload, report, utilization=utilization))
    if lengths is not None:
        result["tokens_per_s"] = predict_tokens_per_second(shape, workload, memory.device, lengths, budget_bytes)
    return result


def _contract(report: FitReport) -> dict[str, Any]:
    result = {
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
    if report.pages is not None:
        result |= {
            "block_tokens": report.pages.block_tokens,
            "page_bytes": report.pages.page_bytes,
            "num_blocks": report.num_blocks,
            "blocks_per_sequence": report.pages.blocks_per_sequence,
        }
    return result


def _per_block(shape: HybridShape, workload: Workload) -> dict[str, Any]:
    found = block_bytes(shape, workload)
    return {"blocks": {kind: {"count": shape.count(kind), **asdict(memory)} for kind, memory in found.items()}}
