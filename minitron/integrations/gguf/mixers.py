"""Rules that families share: the tensors outside the blocks, and those of attention, feed-forward and Mamba mixers."""

from dataclasses import replace

from minitron.artifacts.json_files import JsonValue
from minitron.integrations.gguf.family import Rule, Value
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape

# What `time_step_limit` may be: llama.cpp limits no time steps.
UNLIMITED_STEPS: tuple[JsonValue, ...] = ([0.0, {"__float__": "Infinity"}], [0.0, float("inf")])


def outside_blocks(family: Family) -> dict[str, Rule]:
    """Rules of the embeddings, the final norm and the head."""
    return {
        family.embeddings: Rule(name="token_embd.weight"),
        family.final_norm: Rule(name="output_norm.weight"),
        family.head: Rule(name="output.weight"),
    }


def attention(module: str, *, paired: bool = False, biases: bool = False) -> dict[str, Rule]:
    """Rules of the projections of grouped-query attention.

    Args:
        module: Path of the mixer in its block.
        paired: Whether llama.cpp rotates neighboring rows of a head in this architecture.
        biases: Whether queries, keys and values have biases.
    """
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    found = {f"{module}.{projection}.weight": Rule(name=f"{name}.weight") for projection, name in names.items()}
    if paired:
        rotated = [f"{module}.{projection}.weight" for projection in ("q_proj", "k_proj")]
        found |= {name: replace(found[name], values="paired") for name in rotated}
    if biases:
        found |= {f"{module}.{each}_proj.bias": Rule(name=f"attn_{each}.bias") for each in "qkv"}
    return found


def feed_forward(module: str, among: str = "") -> dict[str, Rule]:
    """Rules of up and down projections; llama.cpp's names end in `_exps` or `_shexp` among experts."""
    return {f"{module}.{name}_proj.weight": Rule(name=f"ffn_{name}{among}.weight") for name in ("up", "down")}


def gated_feed_forward(module: str, among: str = "") -> dict[str, Rule]:
    """Rules of an MLP whose gate multiplies the output of the up projection."""
    return {f"{module}.gate_proj.weight": Rule(name=f"ffn_gate{among}.weight"), **feed_forward(module, among)}


def mamba2(module: str) -> dict[str, Rule]:
    """Rules of a Mamba-2 mixer."""
    return {
        f"{module}.in_proj.weight": Rule(name="ssm_in.weight"),
        f"{module}.conv1d.weight": Rule(name="ssm_conv1d.weight", shape="squeezed", fp32=True),
        f"{module}.conv1d.bias": Rule(name="ssm_conv1d.bias"),
        f"{module}.A_log": Rule(name="ssm_a", shape="column", values="minus_exp", fp32=True),
        f"{module}.D": Rule(name="ssm_d", shape="column", fp32=True),
        f"{module}.dt_bias": Rule(name="ssm_dt.bias"),
        f"{module}.norm.weight": Rule(name="ssm_norm.weight", shape="groups", fp32=True),
        f"{module}.out_proj.weight": Rule(name="ssm_out.weight"),
    }


def mamba2_keys(shape: HybridShape) -> dict[str, Value]:
    """The metadata of a model's Mamba-2 mixers."""
    return {
        "ssm.conv_kernel": shape.conv_kernel,
        "ssm.state_size": shape.ssm_state_size,
        "ssm.group_count": shape.n_groups,
        "ssm.inner_size": shape.mamba_num_heads * shape.mamba_head_dim,
        "ssm.time_step_rank": shape.mamba_num_heads,
    }
