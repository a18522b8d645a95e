"""Checkpoints side by side in one engine, a process each, and what the throughput model says of them."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from minitron.artifacts.json_files import JsonObject, as_json
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.dtypes import DTYPES, StoredDtype, find_dtype
from minitron.errors import MinitronError
from minitron.estimate.devices import Device, find_product
from minitron.estimate.serving.throughput import predict_batch_tokens_per_second
from minitron.estimate.serving.vllm_cache import paged_cache_bytes
from minitron.estimate.serving.workload import Engine, Lengths, Workload
from minitron.evaluate.speed.measure import measure
from minitron.evaluate.speed.settings import EngineName, SpeedSettings
from minitron.evaluate.speed.wave import Speed
from minitron.evaluate.speed.worker import Started, Worker, engine_command

logger = logging.getLogger(__name__)

Platform = Literal["cpu", "cuda"]
# Tokens that blocks of vLLM's attention cache are a multiple of.
BLOCK_SIZES: dict[Platform, int] = {"cpu": 128, "cuda": 16}
# Share of a GPU's memory that the engines of all models may take together.
MEMORY_SHARE = 0.9


class BenchSettings(SpeedSettings):
    """What is measured, and in which engine."""

    engine: EngineName = Field(default="transformers", description="transformers or vllm.")
    dtype: StoredDtype | Literal["auto"] = Field(
        default="auto", description="Number format of weights and cache; auto is fp32 on CPUs, as stored on GPUs."
    )
    device: str = Field(default="cpu", description="Device of transformers; vLLM computes on what it is built for.")
    enforce_eager: bool = Field(default=False, description="Run vLLM without compilation and CUDA graphs.")
    prefix_caching: bool = Field(
        default=False, description="Let vLLM share prefixes: these prompts share none, so it costs and brings nothing."
    )
    python: str | None = Field(default=None, description="Python that has the engine.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Speeds of checkpoints that were measured side by side.

    Attributes:
        engine: Name and version.
        device: cpu, or what CUDA calls the GPU.
        dtype: Number format of weights and cache.
        settings: What was measured.
        speeds: Checkpoint -> its speed; ratios are to the first one.
        predicted: Checkpoint -> what the throughput model says, tokens/s; empty where the device's rates are unknown.
        rates: The device that it was said for.
    """

    engine: str
    device: str
    dtype: str
    settings: BenchSettings
    speeds: Mapping[str, Speed]
    predicted: Mapping[str, float]
    rates: Device | None

    def to_json(self) -> JsonObject:
        """The object that `minitron bench --json` prints."""
        rates = self.rates
        return as_json(
            {
                "engine": self.engine,
                "device": self.device,
                "dtype": self.dtype,
                "settings": self.settings.model_dump(mode="json"),
                "speeds": {name: asdict(speed) for name, speed in self.speeds.items()},
                "predicted": dict(self.predicted),
                "bandwidth_gb_s": None if rates is None else rates.bandwidth_gb_s,
                "tflops": None if rates is None else rates.tflops(self.dtype),
            }
        )


def bench_checkpoints(folders: Mapping[str, Path], settings: BenchSettings) -> Bench:
    """Measures checkpoints side by side; the engine of each lives in a process of its own, and they take turns.

    Args:
        folders: What a checkpoint is called -> its folder; ratios are to the first one.
        settings: What is measured.

    Raises:
        MinitronError: A checkpoint cannot be read, or the engine does not run one.
    """
    quantized = settings.engine == "vllm"
    checkpoints = {name: open_checkpoint(folder, quantized=quantized) for name, folder in folders.items()}
    if settings.engine == "vllm" and settings.device != "cpu":
        raise MinitronError("vLLM computes on the device that it is built for: leave --device out")
    command = engine_command(settings.engine, settings.python)
    share = MEMORY_SHARE / len(folders)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, checkpoint in checkpoints.items():
            logger.info("%s: starting %s", name, settings.engine)
            workers[name] = stack.enter_context(Worker(command, _program_settings(checkpoint, settings, share)))
        started = next(iter(workers.values())).started
        vocab_size = min(checkpoint.shape.vocab_size for checkpoint in checkpoints.values())
        speeds = measure({name: one.run_wave for name, one in workers.items()}, settings, vocab_size=vocab_size)
    platform: Platform = "cpu" if started.device == "cpu" else "cuda"
    dtype = _dtype(next(iter(checkpoints.values())), settings, platform)
    rates = _rates(started)
    predicted = {}
    if rates is not None:
        for name, checkpoint in checkpoints.items():
            predicted[name] = _predicted(checkpoint, settings, platform, rates)
    return Bench(
        engine=started.engine,
        device=started.device,
        dtype=dtype,
        settings=settings,
        speeds=speeds,
        predicted=predicted,
        rates=rates,
    )


def _program_settings(checkpoint: Checkpoint, settings: BenchSettings, share: float) -> dict[str, object]:
    on_device: dict[Platform, str] = {
        platform: str(DTYPES[_dtype(checkpoint, settings, platform)].torch) for platform in BLOCK_SIZES
    }
    if settings.engine == "transformers":
        platform: Platform = "cuda" if settings.device.startswith("cuda") else "cpu"
        return {"model": str(checkpoint.folder), "device": settings.device, "dtype": on_device[platform]}
    return {
        "model": str(checkpoint.folder),
        "dtype": on_device,
        "max_model_len": settings.input_tokens + settings.output_tokens,
        "max_num_seqs": settings.concurrency,
        "cache_bytes": {platform: _cache_bytes(checkpoint, settings, platform) for platform in BLOCK_SIZES},
        "memory_share": share,
        "enforce_eager": settings.enforce_eager,
        "prefix_caching": settings.prefix_caching,
    }


def _dtype(checkpoint: Checkpoint, settings: BenchSettings, platform: Platform) -> str:
    if settings.dtype != "auto":
        return settings.dtype
    stored = find_dtype(checkpoint.tensors[checkpoint.shape.head_tensor].dtype)
    assert stored is not None
    return stored if platform == "cuda" else "fp32"


def _workload(checkpoint: Checkpoint, settings: BenchSettings, platform: Platform) -> Workload:
    dtype = _dtype(checkpoint, settings, platform)
    return Workload.model_validate(
        {
            "context_tokens": settings.input_tokens + settings.output_tokens,
            "sequences": settings.concurrency,
            "weights_dtype": checkpoint.weights_format or dtype,
            "kv_dtype": dtype,
            "conv_dtype": dtype,
            "accounting": "vllm" if settings.engine == "vllm" else "plain",
            "engine": Engine(
                max_num_seqs=settings.concurrency,
                block_size=BLOCK_SIZES[platform],
                prefix_caching=settings.prefix_caching,
            ),
        }
    )


def _cache_bytes(checkpoint: Checkpoint, settings: BenchSettings, platform: Platform) -> int:
    """Bytes of vLLM's cache that hold all requests at once, and not one block more."""
    shape = checkpoint.shape
    parts = paged_cache_bytes(shape.family, shape.counts, shape.sizes, _workload(checkpoint, settings, platform))
    return sum(parts.values())


def _rates(started: Started) -> Device | None:
    """What the engine's device reaches: a GPU's profile, or what the CPU does with as many threads."""
    if started.device != "cpu":
        return find_product(started.device)
    from minitron.evaluate.speed.machine import measure_cpu

    return measure_cpu(started.threads)


def _predicted(checkpoint: Checkpoint, settings: BenchSettings, platform: Platform, rates: Device) -> float:
    lengths = Lengths(input_tokens=settings.input_tokens, output_tokens=settings.output_tokens)
    workload = _workload(checkpoint, settings, platform)
    return predict_batch_tokens_per_second(checkpoint.shape, workload, rates, lengths, settings.concurrency)
