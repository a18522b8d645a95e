"""Whole models in fp64 numpy, one token after the other, written from the papers: the oracle of the laws.

Mamba-2: the recurrence of arXiv 2405.21060, section 2, with the gated group norm of its section 5. Routing: arXiv
2412.19437, section 2.1.2, with node-limited groups. Rotary positions: arXiv 2104.09864, halves of a head paired as
llama does. Grouped queries: arXiv 2305.13245; SwiGLU: arXiv 2002.05202; squared ReLU: arXiv 2109.08668.
"""

# T tokens, D hidden, F ffn, H mamba heads, P their channels, G groups, N state, E experts, Q heads, K their channels

from dataclasses import dataclass
from typing import Any

import numpy as np

from minitron.models.shape import HybridShape

Array = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model as plain arrays.

    Attributes:
        weights: Every tensor by its name in files.
        shape: The dims.
        eps: What is added to mean squares.
        theta: Base of the rotary frequencies.
        topk_group: Groups of experts that a token may go to.
        scaling: Factor on the weights of routed experts.
        barred: Layer -> experts that no token may go to.
    """

    weights: dict[str, Array]
    shape: HybridShape
    eps: float
    theta: float = 0.0
    topk_group: int = 1
    scaling: float = 1.0
    barred: dict[int, list[int]]

    def logits(self, ids_T: Array) -> Array:
        """[T, V]."""
        family = self.shape.family
        head = "lm_head.weight" if "lm_head.weight" in self.weights else family.embeddings
        return self._norm(self.streams(ids_T)[-1], self.weights[family.final_norm]) @ self.weights[head].T

    def streams(self, ids_T: Array) -> list[Array]:
        """[T, D] residual stream before each block and after the last one."""
        kinds = {"M": self._mamba, "-": self._mlp, "*": self._attention, "E": self._moe, "T": self._layer}
        streams = [self.weights[self.shape.family.embeddings][ids_T]]
        for layer, kind in enumerate(self.shape.hybrid_override_pattern):
            streams.append(kinds[kind](streams[-1], self.block(layer), layer))
        return streams

    def block(self, layer: int) -> dict[str, Array]:
        """The tensors of a block by their names inside it."""
        prefix = self.shape.family.block_prefix.format(layer=layer)
        return {name.removeprefix(prefix): w for name, w in self.weights.items() if name.startswith(prefix)}

    def expert_inputs(self, stream_TD: Array, layer: int) -> tuple[Array, Array]:
        """[T, D] what a block's router reads, and [T, C] what its experts read."""
        own = self.block(layer)
        x_TD = self._norm(stream_TD, own["norm.weight"])
        latent = own.get("mixer.fc1_latent_proj.weight")
        return x_TD, x_TD if latent is None else x_TD @ latent.T

    def _norm(self, x: Array, weight: Array) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps) * weight

    def _mamba(self, stream_TD: Array, own: dict[str, Array], _layer: int) -> Array:
        shape = self.shape
        H, P, G, N = shape.mamba_num_heads, shape.mamba_head_dim, shape.n_groups, shape.ssm_state_size
        inner = H * P
        projected = self._norm(stream_TD, own["norm.weight"]) @ own["mixer.in_proj.weight"].T
        z, xBC, dt = np.split(projected, [inner, 2 * inner + 2 * G * N], axis=1)
        kernel = own["mixer.conv1d.weight"][:, 0]  # [C, taps], the last one for the token itself
        padded = np.concatenate([np.zeros((kernel.shape[1] - 1, xBC.shape[1])), xBC])
        conv = np.stack([(padded[t : t + kernel.shape[1]] * kernel.T).sum(0) for t in range(len(xBC))])
        x, B, C = np.split(silu(conv + own["mixer.conv1d.bias"]), [inner, inner + G * N], axis=1)
        x_THP, dt_TH = x.reshape(-1, H, P), np.log1p(np.exp(dt + own["mixer.dt_bias"]))
        B_THN, C_THN = (np.repeat(part.reshape(-1, G, N), H // G, axis=1) for part in (B, C))
        decay_TH = np.exp(-dt_TH * np.exp(own["mixer.A_log"]))
        state_HPN, y_THP = np.zeros((H, P, N)), np.zeros_like(x_THP)
        for t in range(len(x_THP)):
            taken_HPN = dt_TH[t, :, None, None] * x_THP[t, :, :, None] * B_THN[t, :, None, :]
            state_HPN = decay_TH[t, :, None, None] * state_HPN + taken_HPN
            y_THP[t] = np.einsum("hpn,hn->hp", state_HPN, C_THN[t]) + own["mixer.D"][:, None] * x_THP[t]
        gated_TGC = (y_THP.reshape(-1, inner) * silu(z)).reshape(-1, G, inner // G)
        normed = self._norm(gated_TGC, own["mixer.norm.weight"].reshape(G, -1)).reshape(-1, inner)
        return stream_TD + normed @ own["mixer.out_proj.weight"].T

    def _mlp(self, stream_TD: Array, own: dict[str, Array], _layer: int) -> Array:
        x_TD = self._norm(stream_TD, own["norm.weight"])
        return stream_TD + relu_squared(x_TD, own["mixer.up_proj.weight"], own["mixer.down_proj.weight"])

    def _attention(self, stream_TD: Array, own: dict[str, Array], _layer: int) -> Array:
        return stream_TD + self._attend(self._norm(stream_TD, own["norm.weight"]), own, "mixer.", rotary=False)

    def _layer(self, stream_TD: Array, own: dict[str, Array], _layer: int) -> Array:
        x_TD = self._norm(stream_TD, own["input_layernorm.weight"])
        stream_TD = stream_TD + self._attend(x_TD, own, "self_attn.", rotary=True)
        x_TD = self._norm(stream_TD, own["post_attention_layernorm.weight"])
        gated_TF = silu(x_TD @ own["mlp.gate_proj.weight"].T) * (x_TD @ own["mlp.up_proj.weight"].T)
        return stream_TD + gated_TF @ own["mlp.down_proj.weight"].T

    def _attend(self, x_TD: Array, own: dict[str, Array], prefix: str, *, rotary: bool) -> Array:
        K, num_kv = self.shape.head_dim, self.shape.num_key_value_heads
        q_TQK, k_TQK, v_TQK = (
            (x_TD @ own[f"{prefix}{name}_proj.weight"].T).reshape(len(x_TD), -1, K) for name in "qkv"
        )
        if f"{prefix}q_norm.weight" in own:
            q_TQK = self._norm(q_TQK, own[f"{prefix}q_norm.weight"])
            k_TQK = self._norm(k_TQK, own[f"{prefix}k_norm.weight"])
        if rotary:
            q_TQK, k_TQK = self._rotate(q_TQK), self._rotate(k_TQK)
        shared = q_TQK.shape[1] // num_kv
        out_TQK = np.zeros_like(q_TQK)
        for head in range(q_TQK.shape[1]):
            k_TK, v_TK = k_TQK[:, head // shared], v_TQK[:, head // shared]
            for t in range(len(x_TD)):
                weight = np.exp(k_TK[: t + 1] @ q_TQK[t, head] / np.sqrt(K))
                out_TQK[t, head] = weight / weight.sum() @ v_TK[: t + 1]
        return out_TQK.reshape(len(x_TD), -1) @ own[f"{prefix}o_proj.weight"].T

    def _rotate(self, x_TQK: Array) -> Array:
        half = x_TQK.shape[2] // 2
        angle_TK = np.arange(len(x_TQK))[:, None] * self.theta ** -(np.arange(half) / half)
        turned = (x_TQK[:, :, :half] + 1j * x_TQK[:, :, half:]) * np.exp(1j * angle_TK)[:, None]
        return np.concatenate([turned.real, turned.imag], axis=2)

    def _moe(self, stream_TD: Array, own: dict[str, Array], layer: int) -> Array:
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

    def route(self, x_D: Array, own: dict[str, Array], layer: int) -> dict[int, float]:
        """Expert -> weight of one token."""
        affinity_E = 1 / (1 + np.exp(-own["mixer.gate.weight"] @ x_D))
        choice_E = affinity_E + own["mixer.gate.e_score_correction_bias"]
        choice_E[self.barred.get(layer, [])] = -np.inf
        groups = np.split(np.arange(len(choice_E)), self.shape.n_group)
        best_two = [np.sort(choice_E[group])[-2:].sum() for group in groups]
        open_groups = np.argsort(best_two)[-self.topk_group :]
        allowed = np.concatenate([groups[group] for group in open_groups])
        chosen = allowed[np.argsort(choice_E[allowed])[-self.shape.num_experts_per_tok :]]
        return {int(e): float(self.scaling * affinity_E[e] / affinity_E[chosen].sum()) for e in chosen}


def reference(
    config: Any, weights: dict[str, Array], shape: HybridShape, barred: dict[int, list[int]] | None = None
) -> Reference:
    """The reference of a model with a transformers configuration."""
    if shape.model_type != "nemotron_h":
        theta = config.rope_parameters["rope_theta"]
        return Reference(weights=weights, shape=shape, eps=config.rms_norm_eps, theta=theta, barred={})
    assert config.norm_topk_prob
    return Reference(
        weights=weights,
        shape=shape,
        eps=config.layer_norm_epsilon,
        topk_group=config.topk_group,
        scaling=config.routed_scaling_factor,
        barred=barred or {},
    )


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def relu_squared(x: Array, up_FD: Array, down_DF: Array) -> Array:
    return np.maximum(x @ up_FD.T, 0) ** 2 @ down_DF.T
