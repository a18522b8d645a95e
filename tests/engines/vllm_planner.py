"""How vLLM plans its cache, as a program: `python vllm_planner.py < request > answer`, both in JSON.

The request is a list of cases: `config` (what `config.json` says), `dtype`, `kv_cache_dtype`, `ssm_dtype` (as vLLM's
options spell them), `prefix_caching` and `block_size` (null leaves them to vLLM), `cuda` (false plans for CPUs),
`max_model_len`, `max_num_batched_tokens`, `memory_bytes` (for the cache). The answer has one object a case, or its
`error`.

Everything in it comes from vLLM's own functions: the model is built without weights on torch's meta device, its layers
say what they keep, and vLLM's platform and planner size blocks, groups and pool.
"""

import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
answers_to = os.dup(1)
os.dup2(2, 1)  # what vLLM prints is not the answer

import torch  # noqa: E402
from vllm_cpu import act_as  # noqa: E402

act_as("avx2")  # with AVX512_BF16 vLLM's platform for CPUs keeps every Mamba state in fp32, whatever is asked

from vllm.config import CacheConfig, VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.distributed import init_distributed_environment, initialize_model_parallel  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.model_executor.layers.attention import Attention  # noqa: E402
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase  # noqa: E402
from vllm.model_executor.model_loader.utils import initialize_model  # noqa: E402
from vllm.model_executor.models import qwen3_moe, registry  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.platforms.interface import Platform  # noqa: E402
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend  # noqa: E402
from vllm.v1.core import kv_cache_utils as planner  # noqa: E402
from vllm.v1.core.block_pool import BlockPool  # noqa: E402

# Modules of models that may see images import it; none of its functions runs in a plan.
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
    sys.modules.setdefault(name, types.ModuleType(name))
sys.modules["torchvision.transforms.v2"].functional = None
registry._run_in_subprocess = lambda inspect: inspect()  # another process would not have it

from vllm.model_executor.models import qwen3_5  # noqa: E402

LONGEST = 2**20


def without_experts(block: torch.nn.Module, *_: Any, **__: Any) -> None:
    """Makes a block of experts empty: it keeps no cache, and vLLM would make it for processes that share it."""
    torch.nn.Module.__init__(block)
    counts = ("logical", "physical", "local_physical", "routed", "redundant", "shared")
    vars(block).update({f"n_{which}_experts": 0 for which in counts} | {"experts": None})


for kind in (qwen3_moe.Qwen3MoeSparseMoeBlock, qwen3_5.Qwen3NextSparseMoeBlock):
    kind.__init__ = without_experts


class Cuda(Platform):
    """The platform of a GPU with FlashAttention, as far as it sizes blocks."""

    @classmethod
    def _find_non_ssm_backends(cls, vllm_config: VllmConfig) -> list[Any]:
        return [FlashAttentionBackend] if current_platform._find_non_ssm_backends(vllm_config) else []


def engine_config(case: dict[str, Any], folder: Path) -> VllmConfig:
    """vLLM's configuration of a case; on CUDA with the block size that is its default there."""
    (folder / "config.json").write_text(json.dumps(case["config"]))
    return EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype=case["dtype"],
        kv_cache_dtype=case["kv_cache_dtype"],
        mamba_ssm_cache_dtype=case["ssm_dtype"],
        enable_prefix_caching=case["prefix_caching"],
        max_model_len=case["max_model_len"],
        max_num_batched_tokens=case["max_num_batched_tokens"],
        block_size=case["block_size"] or (CacheConfig.DEFAULT_BLOCK_SIZE if case["cuda"] else None),
    ).create_engine_config()


def plan(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """vLLM's plan of one case."""
    config = engine_config(case, folder)
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, backend="gloo")
            initialize_model_parallel(1, 1)
        with torch.device("meta"):
            initialize_model(config)
        (Cuda if case["cuda"] else current_platform).update_block_size_for_backend(config)
        config.cache_config.kv_cache_layout = "LBNHC"  # every layer its own region, as a uniform page allows
        layers = config.compilation_config.static_forward_context.items()
        for _, layer in layers:
            if case["cuda"] and isinstance(layer, Attention):
                layer.attn_backend = FlashAttentionBackend
        config.scheduler_config.async_scheduling = case["cuda"]
        kept = {
            name: layer.get_kv_cache_spec(config) for name, layer in layers if isinstance(layer, AttentionLayerBase)
        }
        groups = planner.get_kv_cache_groups(config, dict(kept))
        return answer(config, kept, groups, case["memory_bytes"])


def answer(config: VllmConfig, kept: dict[str, Any], groups: list[Any], memory_bytes: int) -> dict[str, Any]:
    """The plan's numbers."""
    found: dict[str, Any] = {"prefix_caching": config.cache_config.enable_prefix_caching, "groups": len(groups)}
    if not groups:
        return found
    pool_block = planner._pool_bytes_per_block(config, groups)
    made = planner.get_kv_cache_config_from_groups(config, groups, memory_bytes)
    pool = BlockPool(made.num_blocks, enable_caching=False, hash_block_size=16) if made.num_blocks else None
    blocks = planner._max_memory_usage_bytes_from_groups(config, groups) // pool_block
    try:
        planner.get_kv_cache_configs(config, [kept], [memory_bytes])
        refusal = None
    except ValueError as error:
        refusal = str(error)
    asked, config.model_config.max_model_len = config.model_config.max_model_len, LONGEST
    longest = planner._estimate_max_model_len_from_groups(config, groups, memory_bytes - pool_block)
    config.model_config.max_model_len = asked
    return found | {
        "block_tokens": {type(group.kv_cache_spec).__name__: group.kv_cache_spec.block_size for group in groups},
        "page_bytes": sorted({group.kv_cache_spec.page_size_bytes for group in groups}),
        "pool_block_bytes": pool_block,
        "num_blocks": made.num_blocks,
        "free_blocks": 0 if pool is None else pool.get_num_free_blocks(),
        "blocks_per_sequence": blocks,
        "max_concurrency": planner.get_max_concurrency_for_kv_cache_config(config, made),
        "max_context_tokens": longest,
        "refusal": refusal,
    }


if __name__ == "__main__":
    answers: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as root:
        for number, case in enumerate(json.load(sys.stdin)):
            folder = Path(root) / str(number)
            folder.mkdir()
            try:
                answers.append(plan(case, folder))
            except Exception as error:
                answers.append({"error": f"{type(error).__name__}: {error}"})
    with os.fdopen(answers_to, "w") as out:
        json.dump(answers, out)
    os._exit(0)  # process groups would keep the process alive
