"""Rules that families share: the tensors outside the blocks, and those of attention and feed-forward mixers."""

from minitron.integrations.gguf.family import Rule
from minitron.models.families.family import Family


def outside_blocks(family: Family) -> dict[str, Rule]:
    """Rules of the embeddings, the final norm and the head."""
    return {
        family.embeddings: Rule(name="token_embd.weight"),
        family.final_norm: Rule(name="output_norm.weight"),
        family.head: Rule(name="output.weight"),
    }


def attention(module: str) -> dict[str, Rule]:
    """Rules of the projections of grouped-query attention."""
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    return {f"{module}.{projection}.weight": Rule(name=f"{name}.weight") for projection, name in names.items()}


def feed_forward(module: str, among: str = "") -> dict[str, Rule]:
    """Rules of up and down projections; llama.cpp's names end in `_exps` or `_shexp` among experts."""
    return {f"{module}.{name}_proj.weight": Rule(name=f"ffn_{name}{among}.weight") for name in ("up", "down")}


def gated_feed_forward(module: str) -> dict[str, Rule]:
    """Rules of an MLP whose gate multiplies the output of the up projection."""
    return {f"{module}.gate_proj.weight": Rule(name="ffn_gate.weight"), **feed_forward(module)}
