"""Bytes of a model's caches as they are stored: attention cache, Mamba state and convolution state."""

# H mamba heads, P head dim, G groups, N state, k conv kernel

from collections.abc import Mapping

from minitron.dtypes import DTYPES
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import SizeT
from minitron.models.families.family import Family


def cache_bytes(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> dict[str, SizeT]:
    """Bytes of the attention cache and of the Mamba blocks' two states, as they are stored."""
    attention = family.num_keeping("kv", counts)
    mamba = family.num_keeping("state", counts) * workload.sequences
    kv = attention * workload.context_tokens * workload.sequences * kv_token_bits(sizes, workload)
    return {
        "kv_bytes": kv // 8,
        "ssm_bytes": mamba * ssm_state_bits(sizes, workload) // 8,
        "conv_bytes": mamba * conv_state_bits(sizes, workload) // 8,
    }


def kv_token_bits(sizes: Mapping[str, SizeT], workload: Workload) -> SizeT:
    """Bits of keys and values of one token in one attention block."""
    return 2 * sizes["num_key_value_heads"] * sizes["head_dim"] * DTYPES[workload.kv_dtype].bits


def ssm_state_bits(sizes: Mapping[str, SizeT], workload: Workload) -> SizeT:
    """Bits of one sequence's [H, P, N] state in one Mamba block."""
    if "ssm_state_size" not in sizes:
        return 0 * sizes["hidden_size"]
    state_HPN = sizes["mamba_num_heads"] * sizes["mamba_head_dim"] * sizes["ssm_state_size"]
    return state_HPN * DTYPES[workload.ssm_dtype].bits


def conv_state_bits(sizes: Mapping[str, SizeT], workload: Workload) -> SizeT:
    """Bits of one sequence's last k - 1 inputs [H P + 2 G N] of the convolution in one Mamba block."""
    if "conv_kernel" not in sizes:
        return 0 * sizes["hidden_size"]
    inputs = sizes["mamba_num_heads"] * sizes["mamba_head_dim"] + 2 * sizes["n_groups"] * sizes["ssm_state_size"]
    return inputs * (sizes["conv_kernel"] - 1) * DTYPES[workload.conv_dtype].bits
