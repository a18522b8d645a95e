"""Elementwise functions, norms and products that the parts of a model share."""

# T tokens, D channels read, F channels written, K taps

from typing import Any

import numpy as np

Array = Any
Weights = dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    """The approximation by a hyperbolic tangent, arXiv 1606.08415."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softplus(x: Array) -> Array:
    return np.log1p(np.exp(x))


def softmax(x: Array) -> Array:
    """Of one vector."""
    high = np.exp(x - x.max())
    return high / high.sum()


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Over the last dim, arXiv 1910.07467."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def linear(x_TD: Array, own: Weights, name: str) -> Array:
    """[T, F]; with a bias where there is one."""
    return x_TD @ own[f"{name}.weight"].T + own.get(f"{name}.bias", 0.0)


def gated(x_TD: Array, gate_FD: Array, up_FD: Array, down_DF: Array, activation: Any = silu) -> Array:
    """[T, D] of a gated MLP, arXiv 2002.05202."""
    return (activation(x_TD @ gate_FD.T) * (x_TD @ up_FD.T)) @ down_DF.T


def relu_squared(x: Array, up_FD: Array, down_DF: Array) -> Array:
    """arXiv 2109.08668."""
    return np.maximum(x @ up_FD.T, 0) ** 2 @ down_DF.T


def causal_convolution(x_TD: Array, weight_D1K: Array) -> Array:
    """[T, D]: every channel by itself over this token and those before; the last tap is the token's own."""
    kernel_KD = weight_D1K[:, 0].T
    padded = np.concatenate([np.zeros((len(kernel_KD) - 1, x_TD.shape[1])), x_TD])
    return np.stack([(padded[t : t + len(kernel_KD)] * kernel_KD).sum(0) for t in range(len(x_TD))])
