"""What each serving reader demands of a model's shape: one table, from the readers' own sources."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from minitron.errors import ShapeError
from minitron.estimate.serving.family_rules import (
    families_among,
    heads_divide_hidden,
    heads_fill_hidden,
    lacks,
    mamba_is_twice_hidden,
    refuses,
)
from minitron.estimate.serving.reader_names import ReaderName
from minitron.estimate.serving.shape_rules import (
    Counts,
    Serving,
    ShapeRule,
    Sizes,
    gpus_among,
    has_blocks,
    inner_multiple,
    lacks_blocks,
    multiple_of,
    splits_evenly,
    splits_once_padded,
    splits_or_repeats,
    splits_unless_one,
)
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape

# Numbers of GPUs that are looked at to say which a shape splits over, and sizes around a bad one.
GPUS, NEAR = range(1, 17), 4096

# Families that each reader's source was read for; `minitron.integrations.readers` says which keys it reads of them.
FIRST = ("nemotron_h", "llama", "qwen3")
LOOKED_AT: Mapping[ReaderName, tuple[str, ...]] = {
    "vllm": (*FIRST, "mistral", "qwen2", "smollm3", "gemma3_text", "granitemoehybrid", "qwen3_moe",
             "qwen3_5_text", "qwen3_5_moe_text"),
    "sglang": (*FIRST, "mistral", "qwen2", "gemma3_text", "granitemoehybrid", "qwen3_moe", "qwen3_5_text",
               "qwen3_5_moe_text"),
    "llamacpp": (*FIRST, "mistral", "qwen2", "smollm3", "gemma3_text", "granitemoehybrid", "qwen3_moe"),
    "tensorrt-llm": FIRST,
    "mlx": (*FIRST, "mistral", "qwen2", "smollm3", "gemma3_text", "granitemoehybrid", "qwen3_moe"),
    "transformers": tuple(FAMILIES),
    "vllm@0.11": FIRST[:1],
    "transformers@5.12": FIRST[:1],
}  # fmt: skip
DELTA_NETS = ("qwen3_5_text", "qwen3_5_moe_text")

VLLM, SGLANG = "vllm 0.33.0, model_executor", "sglang 0.5.23, srt"
VLLM_0_11 = "vllm 0.11.0, model_executor"
LLAMACPP = "llama.cpp of llama-cpp-python 0.3.36"
TENSORRT_LLM, MLX = "NVIDIA/TensorRT-LLM", "mlx-lm 0.32.2"


def _by_heads_and_neurons(attention: str, linear: str, experts: str) -> tuple[ShapeRule, ...]:
    """Attention is split by its heads, and feed-forward layers by their neurons."""
    return (
        splits_evenly("num_attention_heads", "*TSNX", attention),
        splits_or_repeats("num_key_value_heads", "*TSNX", attention),
        splits_evenly("intermediate_size", "-TSNHG", linear),
        splits_evenly("moe_shared_expert_intermediate_size", "EHTG", linear),
        splits_evenly("moe_intermediate_size", "EHTGX", experts),
    )


def _as_vllm_splits(package: str, experts: str, mamba: str) -> tuple[ShapeRule, ...]:
    """What vLLM's layers for tensor parallelism demand, which SGLang's are made after."""
    return (
        *_by_heads_and_neurons(
            f"{package}/models/nemotron_h.py, llama.py, qwen3.py",
            f"{package}/layers/linear.py",
            f"{package}/{experts}",
        ),
        splits_evenly("mamba_num_heads", "MH", f"{package}/{mamba}"),
        splits_unless_one("n_groups", "MH", f"{package}/{mamba}"),
        splits_once_padded("vocab_size", 64, f"{package}/layers/vocab_parallel_embedding.py"),
    )


SHAPE_RULES: Mapping[ReaderName, tuple[ShapeRule, ...]] = {
    "vllm": (
        *_as_vllm_splits(VLLM, "layers/fused_moe/config.py", "layers/mamba/mamba_mixer2.py"),
        splits_evenly("linear_num_key_heads", "G", f"{VLLM}/layers/mamba/gdn/qwen_gdn_linear_attn.py"),
        heads_fill_hidden(("qwen2", "granitemoehybrid"), f"{VLLM}/models/qwen2.py, granitemoehybrid.py"),
        refuses(("bamba",), "vLLM dropped it in 0.23", f"{VLLM}/models/registry.py"),
        families_among((*LOOKED_AT["vllm"], "bamba"), "vllm 0.33.0"),
    ),
    "sglang": (
        *_as_vllm_splits(SGLANG, "layers/moe/fused_moe_triton/layer.py", "layers/attention/mamba/mamba.py"),
        splits_evenly("linear_num_key_heads", "G", f"{SGLANG}/models/qwen3_5.py"),
        heads_fill_hidden(("granitemoehybrid",), f"{SGLANG}/models/granitemoehybrid.py"),
        lacks(
            ("mistral",),
            "S",
            "layers that attend in a window, which it reads as full ones",
            f"{SGLANG}/models/mistral.py, llama.py",
        ),
        lacks(
            ("qwen3_moe",), "T", "layers without experts, as it builds experts in all", f"{SGLANG}/models/qwen3_moe.py"
        ),
        families_among(LOOKED_AT["sglang"], "sglang 0.5.23"),
    ),
    "llamacpp": (
        inner_multiple(64, f"{LLAMACPP}, conversion/granite.py"),
        lacks_blocks("-E", "MLP blocks beside blocks of experts", f"{LLAMACPP}, conversion/nemotron.py"),
        multiple_of("vocab_size", 8, "M-*E", f"{LLAMACPP}, conversion/nemotron.py"),
        heads_fill_hidden(("granitemoehybrid",), f"{LLAMACPP}, conversion/granite.py"),
        heads_fill_hidden(("qwen2",), f"{LLAMACPP}, src/models/qwen2.cpp"),
        mamba_is_twice_hidden(("granitemoehybrid",), f"{LLAMACPP}, src/models/granite-hybrid.cpp"),
        lacks(
            ("mistral",),
            "S",
            "layers that attend in a window, which it reads as full ones",
            f"{LLAMACPP}, conversion/llama.py",
        ),
        lacks(
            ("qwen3_moe",),
            "T",
            "layers without experts, as it expects experts in all",
            f"{LLAMACPP}, src/models/qwen3moe.cpp of 069be0a",
        ),
        families_among(LOOKED_AT["llamacpp"], LLAMACPP),
    ),
    "tensorrt-llm": (
        gpus_among((1, 2, 4, 8), "M-*E", f"{TENSORRT_LLM} 00620eb, _torch/models/modeling_nemotron_h.py"),
        *_by_heads_and_neurons(
            f"{TENSORRT_LLM} 00547a2, _torch/modules/attention.py; 088aa36, .../hf/weight_mapper.py",
            f"{TENSORRT_LLM} 00bbf71, _torch/modules/linear.py",
            f"{TENSORRT_LLM} 00a3c47, _torch/modules/fused_moe/interface.py",
        ),
        splits_evenly("mamba_num_heads", "M", f"{TENSORRT_LLM} dec2888, _torch/modules/mamba/mamba2_tp.py"),
        splits_or_repeats("n_groups", "M", f"{TENSORRT_LLM} dec2888, _torch/modules/mamba/mamba2_tp.py"),
        families_among(LOOKED_AT["tensorrt-llm"], f"{TENSORRT_LLM} 00620eb"),
    ),
    "mlx": (
        # How it splits those of experts, windows and states was not looked at.
        gpus_among((1,), "M-*EHXSN", f"{MLX}, models/nemotron_h.py"),
        splits_evenly("num_attention_heads", "T", f"{MLX}, models/llama.py, qwen3.py"),
        splits_evenly("num_key_value_heads", "T", f"{MLX}, models/llama.py, qwen3.py"),
        splits_evenly("intermediate_size", "T", f"{MLX}, models/llama.py, qwen3.py"),
        has_blocks("M*", "Mamba and attention blocks", f"{MLX}, models/nemotron_h.py"),
        multiple_of("ssm_state_size", 32, "MH", f"{MLX}, models/ssm.py", where=" on Apple GPUs"),
        heads_fill_hidden(("qwen2", "granitemoehybrid"), f"{MLX}, models/qwen2.py, granitemoehybrid.py"),
        lacks(
            ("mistral",),
            "S",
            "layers that attend in a window, which it reads as full ones",
            f"{MLX}, utils.py, models/llama.py",
        ),
        refuses(("bamba", *DELTA_NETS), "mlx-lm knows no such model_type", f"{MLX}, models/"),
        families_among((*LOOKED_AT["mlx"], "bamba", *DELTA_NETS), MLX),
    ),
    "transformers": (
        has_blocks("*", "attention blocks", "transformers 5.23.0, cache_utils.py"),
        heads_divide_hidden(("gemma3_text",), "transformers 5.23.0, models/gemma3/configuration_gemma3.py"),
    ),
    "vllm@0.11": (
        *_as_vllm_splits(VLLM_0_11, "models/nemotron_h.py", "layers/mamba/mamba_mixer2.py"),
        lacks_blocks("E", "blocks of experts", f"{VLLM_0_11}/models/nemotron_h.py"),
        families_among(LOOKED_AT["vllm@0.11"], "vllm 0.11.0"),
    ),
    "transformers@5.12": (families_among(LOOKED_AT["transformers@5.12"], "transformers 5.8.1 and 5.12.1"),),
}


def keeps_to_readers(model_type: str, counts: Counts, sizes: Sizes, serving: Serving) -> npt.NDArray[np.bool_]:
    """Whether a family's shapes with these counts of blocks keep to all rules of the readers, as numbers or arrays."""
    kept = np.asarray(True)
    for reader in serving.readers:
        for rule in SHAPE_RULES[reader]:
            kept = kept & rule.met(model_type, counts, sizes, serving)
    return np.asarray(kept)


def broken_rules(shape: HybridShape, serving: Serving) -> tuple[tuple[ReaderName, ShapeRule], ...]:
    """The rules that a shape breaks, with the reader that has them."""
    return tuple(
        (reader, rule)
        for reader in serving.readers
        for rule in SHAPE_RULES[reader]
        if not rule.met(shape.model_type, shape.counts, shape.sizes, serving)
    )


def good_splits(shape: HybridShape, reader: ReaderName, serving: Serving) -> tuple[int, ...]:
    """Numbers of GPUs up to 16 that a reader splits a shape over."""
    alone = replace(serving, readers=(reader,))
    return tuple(gpus for gpus in GPUS if not broken_rules(shape, replace(alone, tensor_parallel=gpus)))


def nearest_sizes(shape: HybridShape, rule: ShapeRule, serving: Serving) -> tuple[int, ...]:
    """Sizes below and above a shape's, the nearest of each, that keep to a rule; none where the key is no axis."""
    if rule.key not in shape.family.axes:
        return ()
    size = shape.sizes[rule.key]
    below, above = range(size - 1, 0, -1), range(size + 1, size + NEAR)
    found = (next((one for one in sizes if _keeps(shape, rule, one, serving)), None) for sizes in (below, above))
    return tuple(one for one in found if one is not None)


def _keeps(shape: HybridShape, rule: ShapeRule, size: int, serving: Serving) -> bool:
    try:
        changed = shape.resized(layers=None, **{rule.key: size})
    except ShapeError:
        return False  # it breaks a group
    return bool(rule.met(changed.model_type, changed.counts, changed.sizes, serving))
