"""Attention, a head and a token at a time.

Grouped queries: arXiv 2305.13245. Rotary positions: arXiv 2104.09864, the halves of what turns paired as llama does.
Layers without positions: arXiv 2501.18795. Windows: arXiv 2310.06825. Norms of queries and keys: arXiv 2302.05442.
A sigmoid gate on every head's output: arXiv 2505.06708.
"""

# T tokens, D hidden, Q heads, K their channels

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.reference.arithmetic import Array, Weights, linear, rms_norm, sigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """How a layer attends.

    Attributes:
        head_dim: Channels of a head.
        num_kv: Heads of keys and values.
        scale: Factor on the products of queries and keys.
        eps: What is added to mean squares in the norms of queries and keys.
        plus: What is added to the weights of those norms.
        theta: Base of the rotary frequencies; None without positions.
        turned: How many channels of a head turn, the first ones.
        window: How many tokens a token sees, itself included; None for all of them.
        is_gated: Whether each head's queries are followed by its gate.
    """

    head_dim: int
    num_kv: int
    scale: float
    eps: float
    plus: float = 0.0
    theta: float | None = None
    turned: int = 0
    window: int | None = None
    is_gated: bool = False

    def __call__(self, x_TD: Array, own: Weights, prefix: str) -> Array:
        """[T, D]."""
        T, K = len(x_TD), self.head_dim
        q_TQK, k_TQK, v_TQK = (linear(x_TD, own, f"{prefix}{name}_proj").reshape(T, -1, K) for name in "qkv")
        gate_TQK: Any = None
        if self.is_gated:
            q_TQK, gate_TQK = q_TQK[:, 0::2], q_TQK[:, 1::2]
        if f"{prefix}q_norm.weight" in own:
            q_TQK, k_TQK = (
                rms_norm(x_TQK, own[f"{prefix}{name}_norm.weight"] + self.plus, self.eps)
                for name, x_TQK in (("q", q_TQK), ("k", k_TQK))
            )
        if self.theta is not None:
            q_TQK, k_TQK = self._turn(q_TQK), self._turn(k_TQK)
        out_TQK = self._mix(q_TQK, k_TQK, v_TQK)
        if self.is_gated:
            out_TQK = out_TQK * sigmoid(gate_TQK)
        return linear(out_TQK.reshape(T, -1), own, f"{prefix}o_proj")

    def _mix(self, q_TQK: Array, k_TQK: Array, v_TQK: Array) -> Array:
        shared = q_TQK.shape[1] // self.num_kv
        out_TQK = np.zeros_like(q_TQK)
        for head in range(q_TQK.shape[1]):
            k_TK, v_TK = k_TQK[:, head // shared], v_TQK[:, head // shared]
            for t in range(len(q_TQK)):
                first = 0 if self.window is None else max(0, t + 1 - self.window)
                weight = np.exp(k_TK[first : t + 1] @ q_TQK[t, head] * self.scale)
                out_TQK[t, head] = weight / weight.sum() @ v_TK[first : t + 1]
        return out_TQK

    def _turn(self, x_TQK: Array) -> Array:
        assert self.theta is not None
        half = self.turned // 2
        angle_TK = np.arange(len(x_TQK))[:, None] * self.theta ** -(np.arange(half) / half)
        turned = (x_TQK[:, :, :half] + 1j * x_TQK[:, :, half : 2 * half]) * np.exp(1j * angle_TK)[:, None]
        return np.concatenate([turned.real, turned.imag, x_TQK[:, :, 2 * half :]], axis=2)
