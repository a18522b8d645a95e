"""What vLLM on CPU allocates when it starts, as a program: `python vllm_allocation.py < request > answer`, in JSON.

The request is a list of `model` (a checkpoint's folder), `dtype`, `max_model_len`, `memory_bytes` (for the cache) and
`prefix_caching` (null leaves it to vLLM). The answer has one object each, or its `error` where vLLM does not start.
"""

import gc
import json
import os
import sys
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would take the place of what is asked for
answers_to = os.dup(1)
os.dup2(2, 1)  # what vLLM prints is not the answer

from vllm import LLM  # noqa: E402
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: E402


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Starts an engine and says what it holds."""
    engine = None
    try:
        engine = LLM(
            request["model"],
            dtype=request["dtype"],
            enforce_eager=True,
            max_model_len=request["max_model_len"],
            max_num_seqs=4,
            kv_cache_memory_bytes=request["memory_bytes"],
            skip_tokenizer_init=True,
            enable_prefix_caching=request["prefix_caching"],
        )
        return held(engine)
    finally:
        del engine
        cleanup_dist_env_and_memory()
        gc.collect()


def held(engine: Any) -> dict[str, Any]:
    """The cache of a started engine: as planned, and the bytes of its tensors."""
    settings = engine.llm_engine.vllm_config.cache_config
    core = engine.llm_engine.engine_core.engine_core
    plan = core.scheduler.kv_cache_config
    layers = core.model_executor.driver_worker.worker.compilation_config.static_forward_context.values()
    kept = [one.kv_cache for one in layers if getattr(one, "kv_cache", None) is not None]
    tensors = [tensor for one in kept for tensor in (one if isinstance(one, (tuple, list)) else [one])]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return {
        "prefix_caching": settings.enable_prefix_caching,
        "block_tokens": settings.block_size,
        "page_bytes": sorted({group.kv_cache_spec.page_size_bytes for group in plan.kv_cache_groups}),
        "groups": len(plan.kv_cache_groups),
        "num_blocks": plan.num_blocks,
        "max_concurrency": settings.kv_cache_max_concurrency,
        "allocated_bytes": sum(storages.values()),
    }


if __name__ == "__main__":
    answers: list[dict[str, Any]] = []
    for request in json.load(sys.stdin):
        try:
            answers.append(start(request))
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
    with os.fdopen(answers_to, "w") as out:
        json.dump(answers, out)
    os._exit(0)  # the engine's threads would keep the process alive
