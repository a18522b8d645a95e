"""qwen3_moe in GGUF files: attention as qwen3's, and experts in every layer.

Source of keys: ggml-org/llama.cpp, src/models/qwen3moe.cpp, and gguf 0.19, gguf/constants.py.
"""

from dataclasses import replace

from minitron.errors import MinitronError
from minitron.integrations.gguf import dense, mixers
from minitron.integrations.gguf.family import Config, Rule, Value
from minitron.models.shape import HybridShape


def architecture(shape: HybridShape) -> str:
    """llama.cpp's name.

    Raises:
        MinitronError: A layer has an MLP in place of experts, for which llama.cpp has no tensors.
    """
    if shape.count("T"):
        raise MinitronError(
            f"every layer of a qwen3_moe must have experts for llama.cpp, {shape.count('T')} of the pattern "
            f"{shape.hybrid_override_pattern} have an MLP"
        )
    return "qwen3moe"


def keys(shape: HybridShape, config: Config) -> dict[str, Value]:
    """The metadata that llama.cpp needs.

    Raises:
        MinitronError: The weights of a token's experts are not normed, as llama.cpp always does.
    """
    if config.get("norm_topk_prob") is not True:
        raise MinitronError("norm_topk_prob in config.json must be true for llama.cpp, which norms weights of experts")
    return dense.keys(shape, config) | {
        "expert_count": shape.n_routed_experts,
        "expert_used_count": shape.num_experts_per_tok,
        "expert_feed_forward_length": shape.moe_intermediate_size,
    }


QWEN3_MOE = replace(
    dense.QWEN3,
    architecture=architecture,
    keys=keys,
    rules={
        **dense.RULES,
        "mlp.gate.weight": Rule(name="ffn_gate_inp.weight", fp32=True),
        **mixers.gated_feed_forward("mlp.experts.{}", "_exps"),
    },
)
