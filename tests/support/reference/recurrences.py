"""Recurrent mixers, one token after the other.

Mamba-2: the recurrence of arXiv 2405.21060, section 2, with the gated group norm of its section 5. Gated DeltaNet:
equation 10 of arXiv 2412.06464; keys and queries of length 1; each key head serves a run of value heads.
"""

# T tokens, D hidden, H heads, P channels of their values, G groups (key heads), N state (channels of keys)

import numpy as np

from tests.support.reference.arithmetic import Array, Weights, causal_convolution, rms_norm, sigmoid, silu, softplus


def mamba2(x_TD: Array, own: Weights, prefix: str, *, heads: int, groups: int, state: int, eps: float) -> Array:
    """[T, D] of a Mamba-2 mixer whose tensors have a prefix."""
    part = {name.removeprefix(prefix): weight for name, weight in own.items() if name.startswith(prefix)}
    H, G, N = heads, groups, state
    inner = part["norm.weight"].shape[0]
    z, xBC, dt = np.split(x_TD @ part["in_proj.weight"].T, [inner, 2 * inner + 2 * G * N], axis=1)
    conv = silu(causal_convolution(xBC, part["conv1d.weight"]) + part["conv1d.bias"])
    x, B, C = np.split(conv, [inner, inner + G * N], axis=1)
    x_THP, dt_TH = x.reshape(-1, H, inner // H), softplus(dt + part["dt_bias"])
    B_THN, C_THN = (np.repeat(each.reshape(-1, G, N), H // G, axis=1) for each in (B, C))
    decay_TH = np.exp(-dt_TH * np.exp(part["A_log"]))
    state_HPN, y_THP = np.zeros((H, inner // H, N)), np.zeros_like(x_THP)
    for t in range(len(x_THP)):
        taken_HPN = dt_TH[t, :, None, None] * x_THP[t, :, :, None] * B_THN[t, :, None, :]
        state_HPN = decay_TH[t, :, None, None] * state_HPN + taken_HPN
        y_THP[t] = np.einsum("hpn,hn->hp", state_HPN, C_THN[t]) + part["D"][:, None] * x_THP[t]
    gated_TGC = (y_THP.reshape(-1, inner) * silu(z)).reshape(-1, G, inner // G)
    normed = rms_norm(gated_TGC, part["norm.weight"].reshape(G, -1), eps).reshape(-1, inner)
    return normed @ part["out_proj.weight"].T


def gated_delta_net(
    x_TD: Array, own: Weights, prefix: str, *, key_heads: int, value_heads: int, key_dim: int, eps: float
) -> Array:
    """[T, D] of a gated DeltaNet mixer whose tensors have a prefix."""
    part = {name.removeprefix(prefix): weight for name, weight in own.items() if name.startswith(prefix)}
    T, G, H, N = len(x_TD), key_heads, value_heads, key_dim
    conv = silu(causal_convolution(x_TD @ part["in_proj_qkv.weight"].T, part["conv1d.weight"]))
    q, k, v = np.split(conv, [G * N, 2 * G * N], axis=1)
    q_THN, k_THN = (np.repeat(_unit(each.reshape(T, G, N)), H // G, axis=1) for each in (q, k))
    v_THP, z_THP = v.reshape(T, H, -1), (x_TD @ part["in_proj_z.weight"].T).reshape(T, H, -1)
    strength_TH = sigmoid(x_TD @ part["in_proj_b.weight"].T)
    step_TH = softplus(x_TD @ part["in_proj_a.weight"].T + part["dt_bias"])
    decay_TH = np.exp(-np.exp(part["A_log"]) * step_TH)
    out_THP = np.zeros_like(v_THP)
    for head in range(H):
        state_PN = np.zeros((v_THP.shape[2], N))
        for t in range(T):
            k_N, v_P, strength = k_THN[t, head], v_THP[t, head], strength_TH[t, head]
            forgotten_NN = np.eye(N) - strength * np.outer(k_N, k_N)
            state_PN = decay_TH[t, head] * state_PN @ forgotten_NN + strength * np.outer(v_P, k_N)
            out_THP[t, head] = state_PN @ q_THN[t, head] / np.sqrt(N)
    normed = rms_norm(out_THP, part["norm.weight"], eps) * silu(z_THP)
    return normed.reshape(T, -1) @ part["out_proj.weight"].T


def _unit(x: Array) -> Array:
    """Vectors of length 1, with what keeps the division from failing."""
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)
