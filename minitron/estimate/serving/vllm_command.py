"""The `vllm serve` command that serves a model within a budget."""

import math
from collections.abc import Sequence

from minitron.dtypes import DTYPES
from minitron.estimate.serving.fit import FitReport
from minitron.estimate.serving.workload import Engine, Workload


def serve_command(model: str, workload: Workload, report: FitReport, *, utilization: float) -> Sequence[str] | None:
    """The words of a `vllm serve` command that starts within the budget; None where none does.

    vLLM refuses to start when a sequence of `--max-model-len` does not fit its pool, so the context is cut to the
    largest that fits with the high end of the workspace; and when `--max-num-seqs` exceeds the cache blocks of the
    pool, as its default of 256 often does.

    Args:
        model: What to serve.
        workload: What was accounted for, by vLLM's accounting.
        report: What came of it.
        utilization: Share of the GPU's whole memory that the budget is.
    """
    context = workload.context_tokens
    if report.max_context_tokens is not None:
        context = min(context, report.max_context_tokens)
    if report.num_cache_blocks == 0 or context == 0:
        return None
    sequences = min(workload.engine.max_num_seqs, report.num_cache_blocks or workload.engine.max_num_seqs)
    words = ["vllm", "serve", model, "--max-model-len", str(context)]
    # Rounded down, so that vLLM never takes more than the budget.
    words += ["--max-num-seqs", str(sequences), "--gpu-memory-utilization", f"{math.floor(utilization * 1e4) / 1e4:g}"]
    if workload.weights_dtype == "fp8":
        words += ["--quantization", "fp8"]
    if workload.engine.max_num_batched_tokens != Engine().max_num_batched_tokens:
        words += ["--max-num-batched-tokens", str(workload.engine.max_num_batched_tokens)]
    if workload.kv_dtype == "fp32":
        words += ["--dtype", "float32"]
    elif workload.conv_dtype == "fp32":
        words += ["--mamba-cache-dtype", "float32"]
    words += ["--kv-cache-dtype", "fp8" if workload.kv_dtype == "fp8" else "auto"]
    words += ["--mamba-ssm-cache-dtype", str(DTYPES[workload.ssm_dtype].torch)]
    if workload.engine.block_size != Engine().block_size:
        words += ["--block-size", str(workload.engine.block_size)]
    return [*words, "--enable-prefix-caching" if workload.engine.prefix_caching else "--no-enable-prefix-caching"]
