"""Whether a model fits a memory budget, from its configuration or headers alone. Loads no torch."""

import logging
from dataclasses import replace
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.hub import find_config
from minitron.errors import MinitronError
from minitron.estimate.devices import Device, find_device, find_product
from minitron.estimate.serving.model_fit import Memory, fit_model
from minitron.estimate.serving.workload import Workload
from minitron.recipe.load import make_section
from minitron.units import GIB

logger = logging.getLogger(__name__)

# What `gpu` is called that stands for the device of this machine: its first GPU, or its CPU, measured.
THIS_MACHINE = "this"


def fit(
    model: str | Path,
    *,
    gpu: str = "a10g",
    context: int = 131072,
    sequences: int = 1,
    weights: str | None = None,
    accounting: str = "plain",
) -> JsonObject:
    """Whether a model fits a GPU's memory, and what it takes.

    Args:
        model: Checkpoint folder, `config.json`, or a name on the Hugging Face hub, of which no weights are fetched.
        gpu: Device profile (a10g, l4, rtx4090, a100-40g, a100-80g, h100, h200), a CUDA device as `cuda:0`, or
            `this`: this machine's first GPU, or its CPU, whose rates are measured in a few seconds.
        context: Tokens that each sequence holds.
        sequences: Sequences held at once.
        weights: Precision of the weights (bf16, fp8, int8, int4, ...); as stored in a folder, else bf16, when None.
        accounting: plain counts what is stored, vllm counts cache blocks as the engine allocates them.

    Returns:
        What `minitron fit --json` prints: `fits`, `verdict`, `params`, `weights_bytes`, `kv_bytes`, `ssm_bytes`,
        `conv_bytes`, `workspace_bytes`, `total_bytes`, `budget_bytes`, `headroom_bytes`, `max_context_tokens`,
        `max_sequences`; with vllm also `block_tokens`, `page_bytes`, `num_blocks`, `blocks_per_sequence`,
        `prefix_caching_bytes` (what sharing prefixes, vLLM's default, takes) and `serve`.

    Raises:
        MinitronError: The model cannot be read, or there is no such GPU or precision.

    Example:
        ```python
        found = minitron.fit("nvidia-9b/config.json", gpu="a10g", context=131072, accounting="vllm")
        print(found["verdict"], found["headroom_bytes"] / 2**30, "GiB left")
        ```
    """
    workload = make_section(Workload, {"context_tokens": context, "sequences": sequences, "accounting": accounting})
    return fit_model(find_config(model), workload, Memory(device=choose_device(gpu, None)), weights=weights).to_json()


def choose_device(
    gpu: str | None,
    memory_gib: float | None,
    *,
    bandwidth_gb_s: float | None = None,
    bf16_tflops: float | None = None,
) -> Device:
    """The device that was asked for: a profile, one of this machine, or a memory with its rates; an A10G by default.

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
    if gpu == THIS_MACHINE:
        from minitron.evaluate.speed.machine import has_cuda, measure_cpu  # torch takes seconds to load

        if not has_cuda():
            return measure_cpu()
        gpu = "cuda:0"
    if gpu is not None and gpu.partition(":")[0] == "cuda":
        from minitron.runtime.cuda import live_device

        name, total = live_device(gpu)
        known = find_product(name) or Device(name=name, visible_gib=total / GIB, source="torch on this machine")
        logger.info("%s is a %s with %d visible bytes, rates: %s", gpu, name, total, known.source)
        return replace(known, name=name, visible_gib=total / GIB)
    return find_device(gpu or "a10g")
