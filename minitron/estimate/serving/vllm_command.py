"""The `vllm serve` command that serves a model within a budget."""

import math
from collections.abc import Mapping, Sequence

from minitron.dtypes import DTYPES
from minitron.estimate.serving.fit import FitReport
from minitron.estimate.serving.workload import Engine, Workload

# Kinds of rotary positions by whose factor vLLM multiplies max_position_embeddings.
_LENGTHENED = ("linear", "dynamic")


def longest_context(config: Mapping[str, object]) -> int | None:
    """The largest `--max-model-len` that vLLM takes for a configuration; None where the configuration does not say.

    Source: vLLM 0.32, config/model.py, `_get_and_verify_max_len`.

    Example:
        >>> longest_context({"max_position_embeddings": 4096})
        4096
        >>> longest_context({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.5}})
        10240
    """
    longest = config.get("max_position_embeddings")
    if not isinstance(longest, int):
        return None
    settings = config.get("rope_parameters") or config.get("rope_scaling")
    if isinstance(settings, Mapping) and (settings.get("rope_type") or settings.get("type")) in _LENGTHENED:
        factor = settings.get("factor")
        return int(longest * factor) if isinstance(factor, int | float) else longest
    return longest


def serve_command(
    model: str, workload: Workload, report: FitReport, *, utilization: float, longest: int | None = None
) -> Sequence[str] | None:
    """The words of a `vllm serve` command that starts within the budget; None where none does.

    vLLM refuses to start when a sequence of `--max-model-len` does not fit its pool, so the context is cut to the
    largest that fits with the high end of the workspace; and when `--max-num-seqs` exceeds the cache blocks of the
    pool, as its default of 256 often does. It also refuses a context beyond the configuration's own.

    Args:
        model: What to serve.
        workload: What was accounted for, by vLLM's accounting.
        report: What came of it.
        utilization: Share of the GPU's whole memory that the budget is.
        longest: Tokens of the longest context that the configuration allows; None where it does not say.
    """
    limits = (workload.context_tokens, report.max_context_tokens, longest)
    context = min(limit for limit in limits if limit is not None)
    if report.num_cache_blocks == 0 or context == 0:
        return None
    sequences = min(workload.engine.max_num_seqs, report.num_cache_blocks or workload.engine.max_num_seqs)
    words = ["vllm", "serve", model, "--max-model-len", str(context)]
    # Rounded down, so that vLLM never takes more than the budget.
    words += ["--max-num-seqs", str(sequences), "--gpu-memory-utilization", f"{math.floor(utilization * 1e4) / 1e4:g}"]
    if workload.weights_dtype == "fp8":
        words += ["--quantization", "fp8"]
    has_windows = report.cache_blocks is not None and report.cache_blocks.window_groups > 0
    # Windows keep the tokens of steps in flight, and vLLM's default differs from GPU to GPU.
    if has_windows or workload.engine.max_num_batched_tokens != Engine().max_num_batched_tokens:
        words += ["--max-num-batched-tokens", str(workload.engine.max_num_batched_tokens)]
    if workload.kv_dtype == "fp32":
        words += ["--dtype", "float32"]
    elif workload.conv_dtype == "fp32":
        words += ["--mamba-cache-dtype", "float32"]
    words += ["--kv-cache-dtype", "fp8" if workload.kv_dtype == "fp8" else "auto"]
    words += ["--mamba-ssm-cache-dtype", str(DTYPES[workload.ssm_dtype].torch)]
    if workload.engine.block_size != Engine().block_size:
        words += ["--block-size", str(workload.engine.block_size)]
    if has_windows and not workload.engine.async_scheduling:
        words += ["--no-async-scheduling"]
    return [*words, "--enable-prefix-caching" if workload.engine.prefix_caching else "--no-enable-prefix-caching"]
