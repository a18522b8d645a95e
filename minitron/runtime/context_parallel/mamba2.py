"""A Mamba-2 mixer on a part of a sequence: the tokens before it come in as the end of a convolution and as a state.

Each process scans its part from an empty state. Final states and total decays are gathered, each process adds up the
state that comes in to it, and what that state adds to the outputs is a product with C and the decay so far.
Source: arXiv 2405.21060, section 8.2 (sequence parallelism).
"""

# B sequences, T tokens of a part, C channels of the convolution, K its kernel, R processes of a group
# H heads, P head dim, G groups, N state

from typing import Any

import torch
from torch.nn import functional as F
from transformers.models.nemotron_h import modeling_nemotron_h as modeling

from minitron.distributed import ContextGroup
from minitron.runtime.context_parallel.collectives import from_previous, gather
from minitron.runtime.context_parallel.part import TextPart


def mamba2_forward(mixer: Any, part: TextPart, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
    """[B, T, D] what the mixer gives for this part, computed by the mixer's own layers and kernels.

    Args:
        mixer: transformers' mixer.
        part: The part.
        hidden_states: [B, T, D] its tokens.
        kwargs: What blocks give besides, of caches and padding, which there are none of.
    """
    samples, tokens, _ = hidden_states.shape
    projected: torch.Tensor = mixer.in_proj(hidden_states)
    gate, xBC_BTC, dt_BTH = torch.split(projected, [mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1)
    state_numbers = mixer.n_groups * mixer.ssm_state_size
    convolved_BTC = convolved(mixer, xBC_BTC, part.group)
    x, B, C = torch.split(convolved_BTC, [mixer.intermediate_size, state_numbers, state_numbers], dim=-1)
    C_BTGN = C.view(samples, tokens, mixer.n_groups, -1)
    A_H = -torch.exp(_wide(mixer.A_log))
    y_BTHP, final_BHPN = modeling.mamba2_chunk_scan(
        x.view(samples, tokens, mixer.num_heads, mixer.head_dim),
        dt_BTH,
        A_H,
        B.view(samples, tokens, mixer.n_groups, -1),
        C_BTGN,
        chunk_size=mixer.chunk_size,
        D=mixer.D,
        z=None,
        dt_bias=mixer.dt_bias,
        dt_softplus=True,
        dt_limit=mixer.time_step_limit,
        return_final_states=True,
    )
    step_BTH = F.softplus(_wide(dt_BTH) + _wide(mixer.dt_bias)).clamp(*mixer.time_step_limit)
    log_decay_BTH = torch.cumsum(A_H * step_BTH, dim=1)
    incoming_BHPN = state_before(final_BHPN, log_decay_BTH[:, -1], part.group)
    y_BTHP = y_BTHP + added_by_state(incoming_BHPN, C_BTGN, log_decay_BTH).to(y_BTHP.dtype)
    normed = mixer.norm(y_BTHP.reshape(samples, tokens, -1), gate)
    given: torch.Tensor = mixer.out_proj(normed.to(hidden_states.dtype))
    return given


def convolved(mixer: Any, xBC_BTC: torch.Tensor, group: ContextGroup) -> torch.Tensor:
    """[B, T, C] the causal convolution, whose first K - 1 tokens read the end of the previous part."""
    halo = mixer.conv_kernel_size - 1
    if halo:
        xBC_BTC = torch.cat([from_previous(xBC_BTC[:, -halo:], group), xBC_BTC], dim=1)
    convolved_BCT: torch.Tensor = modeling.causal_conv1d_fn(
        xBC_BTC.transpose(1, 2), mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, activation=mixer.activation
    )
    return convolved_BCT[:, :, halo:].transpose(1, 2)


def state_before(final_BHPN: torch.Tensor, log_decay_BH: torch.Tensor, group: ContextGroup) -> torch.Tensor:
    """[B, H, P, N] the state that comes in to this process's part, zeros in the first one.

    Args:
        final_BHPN: The state after this part, from an empty one.
        log_decay_BH: Logarithm of what this part leaves of the state that comes in.
        group: The processes that hold a sequence together.
    """
    final_RBHPN, log_decay_RBH = gather(final_BHPN, group), gather(log_decay_BH, group)
    # The state after part q passes the parts between it and this one. Sums, since differences of totals would cancel.
    places = torch.arange(group.size, device=final_BHPN.device)
    between_QR = (places > places[:, None]) & (places < group.rank)
    passed_QBH = torch.einsum("qr,rbh->qbh", between_QR.to(log_decay_RBH), log_decay_RBH)
    weight_QBH = passed_QBH.masked_fill((places >= group.rank)[:, None, None], -torch.inf).exp()
    return torch.einsum("qbh,qbhpn->bhpn", weight_QBH.to(final_RBHPN), final_RBHPN)


def added_by_state(incoming_BHPN: torch.Tensor, C_BTGN: torch.Tensor, log_decay_BTH: torch.Tensor) -> torch.Tensor:
    """[B, T, H, P] what a state that comes in adds to the outputs of a part.

    Args:
        incoming_BHPN: The state.
        C_BTGN: The scan's C; heads of a group share it.
        log_decay_BTH: Logarithm of what is left of the state after each token.
    """
    samples, heads, channels, state = incoming_BHPN.shape
    groups = C_BTGN.shape[2]
    incoming_BGHPN = incoming_BHPN.view(samples, groups, heads // groups, channels, state)
    read_BTGHP = torch.einsum("btgn,bghpn->btghp", C_BTGN.to(incoming_BHPN), incoming_BGHPN)
    return read_BTGHP.flatten(2, 3) * log_decay_BTH.exp()[..., None]


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
