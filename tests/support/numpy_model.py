"""Whole models in fp64 numpy, one token after the other: the oracle of the laws.

Written from the papers that `tests/support/reference` names and from transformers' modeling code, by the names of
tensors in files; nothing is taken from the declarations of the families but the letters of their blocks.
"""

# T tokens, D hidden, C channels that experts read, V vocabulary

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minitron.models.shape import HybridShape
from tests.support.reference.arithmetic import (
    Array,
    Weights,
    gated,
    gelu,
    linear,
    relu_squared,
    rms_norm,
    sigmoid,
    silu,
)
from tests.support.reference.attention import Attention
from tests.support.reference.experts import Routed, Router, routed
from tests.support.reference.recurrences import gated_delta_net, mamba2

# Families whose norms of the stream (and of queries and keys) multiply by 1 + w.
ADD_ONE = ("gemma3_text", "qwen3_5_text", "qwen3_5_moe_text")
SECOND_NORMS = {"gemma3_text": "pre_feedforward_layernorm", "bamba": "pre_ff_layernorm"}
FINAL_NORMS = {"nemotron_h": "backbone.norm_f", "bamba": "model.final_layernorm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model as plain arrays.

    Attributes:
        config: transformers' configuration; what it says of sizes and blocks is not used.
        weights: Every tensor by its name in files.
        shape: The dims and the kinds of the blocks.
        barred: Layer -> experts that no token may go to.
    """

    config: Any
    weights: Weights
    shape: HybridShape
    barred: dict[int, list[int]] = field(default_factory=dict)

    def logits(self, ids_T: Array) -> Array:
        """[T, V]."""
        final = FINAL_NORMS.get(self.shape.model_type, "model.norm")
        head = "lm_head.weight" if "lm_head.weight" in self.weights else self._embeddings
        logits_TV = self._norm(self.streams(ids_T)[-1], self.weights[f"{final}.weight"]) @ self.weights[head].T
        cap = getattr(self.config, "final_logit_softcapping", None)
        return (np.tanh(logits_TV / cap) * cap if cap else logits_TV) / getattr(self.config, "logits_scaling", 1.0)

    def streams(self, ids_T: Array) -> list[Array]:
        """[T, D] residual stream before each block and after the last one."""
        embedded_TD = self.weights[self._embeddings][ids_T]
        if self.shape.model_type == "gemma3_text":
            embedded_TD = embedded_TD * np.sqrt(embedded_TD.shape[1])
        streams = [embedded_TD * getattr(self.config, "embedding_multiplier", 1.0)]
        kinds = {"M": self._mamba, "-": self._mlp, "*": self._attention, "E": self._moe}
        for layer, kind in enumerate(self.shape.hybrid_override_pattern):
            streams.append(kinds.get(kind, self._two_parts)(streams[-1], self.block(layer), layer))
        return streams

    def block(self, layer: int) -> Weights:
        """The tensors of a block by their names inside it."""
        prefix = f"{self._stem}.layers.{layer}."
        return {name.removeprefix(prefix): w for name, w in self.weights.items() if name.startswith(prefix)}

    def expert_inputs(self, stream_TD: Array, layer: int) -> tuple[Array, Array]:
        """[T, D] what a block's router reads, and [T, C] what its experts read, of the stream that enters the block."""
        own = self.block(layer)
        if self.shape.hybrid_override_pattern[layer] != "E":
            x_TD = self._norm(self._after_mixer(stream_TD, own, layer), own["post_attention_layernorm.weight"])
            return x_TD, x_TD
        x_TD = self._norm(stream_TD, own["norm.weight"])
        latent = own.get("mixer.fc1_latent_proj.weight")
        return x_TD, x_TD if latent is None else x_TD @ latent.T

    def route(self, x_D: Array, own: Weights, layer: int) -> Routed:
        """Expert -> weight of one token."""
        names = ("mixer.gate.weight", "mlp.gate.weight", "block_sparse_moe.router.layer.weight")
        weight_ED = next(own[name] for name in names if name in own)
        correction_E = own.get("mixer.gate.e_score_correction_bias", 0.0)
        return self._router()(x_D, weight_ED, correction_E=correction_E, barred=self.barred.get(layer, []))

    @property
    def _stem(self) -> str:
        return "backbone" if self.shape.model_type == "nemotron_h" else "model"

    @property
    def _embeddings(self) -> str:
        return "backbone.embeddings.weight" if self._stem == "backbone" else "model.embed_tokens.weight"

    @property
    def _eps(self) -> float:
        name = "layer_norm_epsilon" if self.shape.model_type == "nemotron_h" else "rms_norm_eps"
        return float(getattr(self.config, name))

    @property
    def _plus(self) -> float:
        return 1.0 if self.shape.model_type in ADD_ONE else 0.0

    def _norm(self, x: Array, weight: Array) -> Array:
        return rms_norm(x, weight + self._plus, self._eps)

    def _mamba(self, stream_TD: Array, own: Weights, _layer: int) -> Array:
        return stream_TD + self._scan(self._norm(stream_TD, own["norm.weight"]), own, "mixer.")

    def _scan(self, x_TD: Array, own: Weights, prefix: str) -> Array:
        shape = self.shape
        sizes = {"heads": shape.mamba_num_heads, "groups": shape.n_groups, "state": shape.ssm_state_size}
        return mamba2(x_TD, own, prefix, eps=self._eps, **sizes)

    def _mlp(self, stream_TD: Array, own: Weights, _layer: int) -> Array:
        x_TD = self._norm(stream_TD, own["norm.weight"])
        return stream_TD + relu_squared(x_TD, own["mixer.up_proj.weight"], own["mixer.down_proj.weight"])

    def _attention(self, stream_TD: Array, own: Weights, layer: int) -> Array:
        return stream_TD + self._attends(layer)(self._norm(stream_TD, own["norm.weight"]), own, "mixer.")

    def _moe(self, stream_TD: Array, own: Weights, layer: int) -> Array:
        x_TD, read_TC = self.expert_inputs(stream_TD, layer)
        added_TD = relu_squared(
            x_TD, own["mixer.shared_experts.up_proj.weight"], own["mixer.shared_experts.down_proj.weight"]
        )
        latent = "mixer.fc2_latent_proj.weight" in own
        for t in range(len(x_TD)):
            routed_C = 0.0
            for expert, weight in self.route(x_TD[t], own, layer).items():
                up, down = (own[f"mixer.experts.{expert}.{side}_proj.weight"] for side in ("up", "down"))
                routed_C = routed_C + weight * relu_squared(read_TC[t], up, down)
            added_TD[t] += own["mixer.fc2_latent_proj.weight"] @ routed_C if latent else routed_C
        return stream_TD + added_TD

    def _two_parts(self, stream_TD: Array, own: Weights, layer: int) -> Array:
        """A layer of a mixer and an MLP (or experts)."""
        stream_TD = self._after_mixer(stream_TD, own, layer)
        second = SECOND_NORMS.get(self.shape.model_type, "post_attention_layernorm")
        added_TD = self._feed_forward(self._norm(stream_TD, own[f"{second}.weight"]), own, layer)
        if "post_feedforward_layernorm.weight" in own:
            added_TD = self._norm(added_TD, own["post_feedforward_layernorm.weight"])
        return stream_TD + added_TD * getattr(self.config, "residual_multiplier", 1.0)

    def _after_mixer(self, stream_TD: Array, own: Weights, layer: int) -> Array:
        x_TD = self._norm(stream_TD, own["input_layernorm.weight"])
        if "mamba.in_proj.weight" in own:
            added_TD = self._scan(x_TD, own, "mamba.")
        elif "linear_attn.in_proj_qkv.weight" in own:
            heads = {"key_heads": self.shape.linear_num_key_heads, "value_heads": self.shape.linear_num_value_heads}
            key_dim = self.shape.linear_key_head_dim
            added_TD = gated_delta_net(x_TD, own, "linear_attn.", key_dim=key_dim, eps=self._eps, **heads)
        else:
            added_TD = self._attends(layer)(x_TD, own, "self_attn.")
        if self.shape.model_type == "gemma3_text":
            added_TD = self._norm(added_TD, own["post_attention_layernorm.weight"])
        return stream_TD + added_TD * getattr(self.config, "residual_multiplier", 1.0)

    def _feed_forward(self, x_TD: Array, own: Weights, layer: int) -> Array:
        if "shared_mlp.input_linear.weight" in own:
            gate_FD, up_FD = np.split(own["shared_mlp.input_linear.weight"], 2)
            added_TD = gated(x_TD, gate_FD, up_FD, own["shared_mlp.output_linear.weight"])
            is_routed = "block_sparse_moe.router.layer.weight" in own
        elif is_routed := "mlp.gate.weight" in own:
            added_TD = self._shared_expert(x_TD, own)
        else:
            prefix = "feed_forward." if self.shape.model_type == "bamba" else "mlp."
            sides = (own[f"{prefix}{side}_proj.weight"] for side in ("gate", "up", "down"))
            return gated(x_TD, *sides, activation=gelu if self.shape.model_type == "gemma3_text" else silu)
        return added_TD + routed(x_TD, own, [self.route(x_D, own, layer) for x_D in x_TD]) if is_routed else added_TD

    def _shared_expert(self, x_TD: Array, own: Weights) -> Array:
        if "mlp.shared_expert_gate.weight" not in own:
            return np.zeros_like(x_TD)
        sides = (own[f"mlp.shared_expert.{side}_proj.weight"] for side in ("gate", "up", "down"))
        return sigmoid(linear(x_TD, own, "mlp.shared_expert_gate")) * gated(x_TD, *sides)

    def _attends(self, layer: int) -> Attention:
        config, shape, kind = self.config, self.shape, self.shape.hybrid_override_pattern[layer]
        name, K = shape.model_type, shape.head_dim
        scale = {"granitemoehybrid": "attention_multiplier", "gemma3_text": "query_pre_attn_scalar"}.get(name)
        factor = K**-0.5 if scale is None else getattr(config, scale) ** (1 if name == "granitemoehybrid" else -0.5)
        has_positions = name != "nemotron_h" and kind != "N" and getattr(config, "position_embedding_type", "rope")
        rotary = config.rope_parameters if has_positions else {"rope_theta": None}
        if name == "gemma3_text":
            rotary = rotary["sliding_attention" if kind == "S" else "full_attention"]
        return Attention(
            head_dim=K,
            num_kv=shape.num_key_value_heads,
            scale=factor,
            eps=self._eps,
            plus=self._plus,
            theta=rotary["rope_theta"],
            turned=int(K * rotary.get("partial_rotary_factor", 1.0)),
            window=config.sliding_window if kind == "S" else None,
            is_gated=name.startswith("qwen3_5"),
        )

    def _router(self) -> Router:
        config, shape = self.config, self.shape
        if shape.model_type == "granitemoehybrid":
            return Router(how="chosen", top_k=shape.num_experts_per_tok)
        if shape.model_type != "nemotron_h":
            normalized = getattr(config, "norm_topk_prob", True)  # qwen3_5_moe knows no other way
            return Router(how="all", top_k=shape.num_experts_per_tok, is_normalized=normalized)
        assert config.norm_topk_prob
        return Router(
            how="groups",
            top_k=shape.num_experts_per_tok,
            groups=shape.n_group,
            open_groups=config.topk_group,
            scaling=config.routed_scaling_factor,
        )


def reference(
    config: Any, weights: Weights, shape: HybridShape, barred: dict[int, list[int]] | None = None
) -> Reference:
    """The reference of a model with a transformers configuration."""
    return Reference(config=config, weights=weights, shape=shape, barred=barred or {})
