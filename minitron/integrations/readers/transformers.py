"""What transformers reads: the configuration classes, whose defaults fill in what they do not find."""

from collections.abc import Mapping

from minitron.integrations.readers.families import ARCHITECTURES, through_transformers
from minitron.integrations.readers.reader import Default, Family, Read, Reader, Rule, defaults
from minitron.integrations.readers.rules import NEWER_KINDS, OLDER_KINDS, kinds_known, quantizations

# Copies of the configuration class, which other readers have, agree on these.
NEMOTRON_H_DEFAULTS: Mapping[str, Default] = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 21504,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
}
EXPERT_DEFAULTS: Mapping[str, Default] = {
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
}
# Older spellings win over newer ones.
NEMOTRON_H_READS = (
    *defaults(**NEMOTRON_H_DEFAULTS, **EXPERT_DEFAULTS),
    Read(size="n_groups", keys=("mamba_n_groups", "n_groups"), default=8),
    Read(size="conv_kernel", keys=("mamba_d_conv", "conv_kernel"), default=4),
    Read(size="moe_latent_size", keys=("moe_latent_size",), default=0),
)
LLAMA_READS = defaults(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_attention_heads=32,
    num_key_value_heads=lambda sizes: sizes["num_attention_heads"],
    head_dim=lambda sizes: sizes["hidden_size"] // sizes["num_attention_heads"],
    tie_word_embeddings=0,
)
QWEN3_READS = defaults(
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=22016,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    tie_word_embeddings=0,
)
LISTS = ("layers_block_type", "layer_types")
EVERY_NAME = {kind: (OLDER_KINDS[kind], NEWER_KINDS[kind]) for kind in OLDER_KINDS}


def dense_families(*, llama: str, qwen3: str, rules: tuple[Rule, ...] = ()) -> dict[str, Family]:
    """How a reader reads llama and qwen3 through transformers' configuration classes.

    Args:
        llama: Where it reads llama.
        qwen3: Where it reads qwen3.
        rules: Its rules about keys of both.
    """
    return {
        "llama": Family(source=llama, architectures=("LlamaForCausalLM",), reads=LLAMA_READS, rules=rules),
        "qwen3": Family(source=qwen3, architectures=("Qwen3ForCausalLM",), reads=QWEN3_READS, rules=rules),
    }


QUANTIZATION = quantizations(
    {"compressed-tensors": ("int-quantized", "pack-quantized")}, source="transformers 5.23.0, quantizers/auto.py"
)
NEMOTRON_H = Family(
    source="transformers 5.23.0, models/nemotron_h/configuration_nemotron_h.py",
    reads=(
        *NEMOTRON_H_READS,
        Read(size="n_routed_experts", keys=("n_routed_experts", "num_local_experts"), default=8),
    ),
    rules=(kinds_known(EVERY_NAME, keys=LISTS), QUANTIZATION),
    block_widths=True,
)
TRANSFORMERS = Reader(
    name="transformers",
    version="5.23.0",
    families={
        "nemotron_h": NEMOTRON_H,
        "llama": Family(
            source="transformers 5.23.0, models/llama/configuration_llama.py",
            reads=LLAMA_READS,
            rules=(QUANTIZATION,),
            block_widths=True,
        ),
        "qwen3": Family(
            source="transformers 5.23.0, models/qwen3/configuration_qwen3.py", reads=QWEN3_READS, rules=(QUANTIZATION,)
        ),
        **through_transformers(
            {name: f"transformers 5.23.0, models/{name.removesuffix('_text')}/" for name in ARCHITECTURES},
            rules=(QUANTIZATION,),
            by_architecture=False,
        ),
    },
    notes=(
        "how transformers splits a model over GPUs is not checked",
        "w8a8 and w4a16 are read with the package compressed-tensors installed",
    ),
)
TRANSFORMERS_5_12 = Reader(
    name="transformers@5.12",
    version="5.8 to 5.12",
    families={
        "nemotron_h": Family(
            source="transformers 5.8.1 and 5.12.1, models/nemotron_h/configuration_nemotron_h.py",
            reads=(*NEMOTRON_H_READS, *defaults(n_routed_experts=8)),
            rules=(kinds_known({kind: (name,) for kind, name in OLDER_KINDS.items()}, keys=LISTS),),
        ),
    },
    notes=(
        "how transformers splits a model over GPUs is not checked",
        "before 5.15 transformers computes Mamba blocks wrongly beyond one chunk, on CPU",
    ),
)
