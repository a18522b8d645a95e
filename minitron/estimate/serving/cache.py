"""Bytes of a model's caches as they are stored: keys and values of all tokens or of a window, and recurrent states."""

from collections.abc import Mapping

from minitron.dtypes import DTYPES
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import SizeT
from minitron.models.families.family import Family


def cache_bytes(
    family: Family, counts: Mapping[str, int], sizes: Mapping[str, SizeT], workload: Workload
) -> dict[str, SizeT]:
    """Bytes of keys and values, and of the two states of recurrent blocks, as they are stored."""
    recurrent = family.num_keeping("state", counts) * workload.sequences
    token = workload.sequences * kv_token_bits(sizes, workload)
    kv = family.num_keeping("kv", counts) * workload.context_tokens * token
    if windows := family.num_keeping("window", counts):
        kv = kv + windows * tokens_within(sizes["sliding_window"], workload.context_tokens) * token
    return {
        "kv_bytes": kv // 8,
        "ssm_bytes": recurrent * ssm_state_bits(family, sizes, workload) // 8,
        "conv_bytes": recurrent * conv_state_bits(family, sizes, workload) // 8,
    }


def tokens_within(limit: SizeT, tokens: int) -> SizeT:
    """The smaller of a limit, a number or an array, and a number of tokens.

    >>> tokens_within(4096, 131072), tokens_within(4096, 100)
    (4096, 100)
    """
    return limit + (limit > tokens) * (tokens - limit)


def kv_token_bits(sizes: Mapping[str, SizeT], workload: Workload) -> SizeT:
    """Bits of keys and values of one token in one attention block."""
    return 2 * sizes["num_key_value_heads"] * sizes["head_dim"] * DTYPES[workload.kv_dtype].bits


def ssm_state_bits(family: Family, sizes: Mapping[str, SizeT], workload: Workload) -> SizeT:
    """Bits of one sequence's recurrent state in one block; 0 in a family without."""
    if family.state is None:
        return 0 * sizes["hidden_size"]
    return family.state.matrix_numbers(sizes) * DTYPES[workload.ssm_dtype].bits


def conv_state_bits(family: Family, sizes: Mapping[str, SizeT], workload: Workload) -> SizeT:
    """Bits of one sequence's convolution state in one recurrent block; 0 in a family without."""
    if family.state is None:
        return 0 * sizes["hidden_size"]
    return family.state.conv_numbers(sizes) * DTYPES[workload.conv_dtype].bits
