"""What recurrent blocks keep of a sequence: a matrix for each head, and the last inputs of a short convolution."""

# H heads, P channels of a head's values, G groups of heads that share a key, N channels of a key, k conv kernel

from collections.abc import Mapping
from dataclasses import dataclass

from minitron.models.axes import SizeT


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """Names of the sizes of a recurrent block's state, which is the same whatever the length of the sequence.

    Attributes:
        heads: H, heads with a [P, N] matrix each.
        value_dim: P, what a token writes into the matrix.
        key_dim: N, by what it is addressed.
        key_groups: G, keys (and queries) that heads share.
        kernel: k, tokens that the convolution before it sees.
        delta_rule: Whether a token first reads what its key holds, to write the difference (arXiv 2412.06464).
    """

    heads: str
    value_dim: str
    key_dim: str
    key_groups: str
    kernel: str
    delta_rule: bool = False

    def matrix_numbers(self, sizes: Mapping[str, SizeT]) -> SizeT:
        """Numbers of the [H, P, N] state of one sequence in one block; sizes are numbers or arrays."""
        return sizes[self.heads] * sizes[self.value_dim] * sizes[self.key_dim]

    def conv_numbers(self, sizes: Mapping[str, SizeT]) -> SizeT:
        """Numbers of the last k - 1 inputs [H P + 2 G N] of the convolution, values, keys and queries."""
        inputs = sizes[self.heads] * sizes[self.value_dim] + 2 * sizes[self.key_groups] * sizes[self.key_dim]
        return inputs * (sizes[self.kernel] - 1)


MAMBA2 = RecurrentState(
    heads="mamba_num_heads",
    value_dim="mamba_head_dim",
    key_dim="ssm_state_size",
    key_groups="n_groups",
    kernel="conv_kernel",
)
GATED_DELTA_NET = RecurrentState(
    heads="linear_num_value_heads",
    value_dim="linear_value_head_dim",
    key_dim="linear_key_head_dim",
    key_groups="linear_num_key_heads",
    kernel="linear_conv_kernel_dim",
    delta_rule=True,
)
