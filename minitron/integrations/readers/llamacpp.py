"""What llama.cpp's converter reads of a checkpoint folder, and what a GGUF file made by it must have to load."""

from collections.abc import Iterator

from minitron.integrations.readers.families import through_transformers
from minitron.integrations.readers.patterns import GRANITE_KINDS, always_tied, every_nth, names_alone
from minitron.integrations.readers.reader import Config, Family, Read, Reader, Refusal, defaults, spelt
from minitron.integrations.readers.rules import kinds_known, needed_for_experts, not_given, only_values
from minitron.integrations.readers.transformers import EVERY_NAME, dense_families
from minitron.models.shape import HybridShape

VERSION = "of llama-cpp-python 0.3.36"


def mlp_blocks_by_pattern(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """MLP blocks must be given by the pattern: of a list, only blocks of experts are given a feed-forward length."""
    if shape.count("-") and config.get("hybrid_override_pattern") is None:
        yield not_given(
            "hybrid_override_pattern",
            shape.hybrid_override_pattern,
            source=family.source,
            rule="be given where there are MLP blocks",
            found="got none, and the converter gives every block a feed-forward length of 0",
        )


def experts_by_key(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """A model without experts must not say how many a token goes to: that key alone makes it one of experts."""
    if not shape.count("E") and "num_experts_per_tok" in config:
        yield Refusal(
            key="num_experts_per_tok",
            rule="be left out where there are no experts",
            found=f"got {config['num_experts_per_tok']}, by which the converter takes it for a model of experts",
            mend="delete it",
            source=family.source,
        )


def number_of_blocks(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """The number of blocks must be given, by itself or by a list of them."""
    if config.get("num_hidden_layers") is None and config.get("layers_block_type") is None:
        yield not_given("num_hidden_layers", shape.num_hidden_layers, source=family.source)


def one_further_layer(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """At most one layer may predict further tokens."""
    further = config.get("num_nextn_predict_layers")
    if shape.count("E") and isinstance(further, int) and further > 1:
        yield Refusal(
            key="num_nextn_predict_layers",
            rule="be 0 or 1",
            found=f"got {further}",
            mend="convert with --no-mtp, or prune with prune.drop_mtp: true",
            source=family.source,
        )


NEMOTRON_H = Family(
    source=f"llama.cpp {VERSION}, conversion/nemotron.py, granite.py",
    architectures=("NemotronHForCausalLM",),
    reads=(
        *spelt(
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "n_routed_experts",
            "num_experts_per_tok",
            "n_group",
            "moe_intermediate_size",
            "moe_shared_expert_intermediate_size",
        ),
        *defaults(moe_latent_size=0),
        Read(size="intermediate_size", keys=("intermediate_size", "n_inner", "hidden_dim")),
        Read(size="num_key_value_heads", keys=("num_key_value_heads", "n_head_kv")),
        Read(size="head_dim", keys=("head_dim", "attention_head_dim")),
        Read(size="mamba_num_heads", keys=("num_heads", "mamba_num_heads")),
        Read(size="mamba_head_dim", keys=("mamba_head_dim",), default=lambda sizes: sizes["hidden_size"]),
        Read(size="n_groups", keys=("n_groups", "num_groups", "mamba_n_groups", "mamba_num_groups")),
        Read(size="conv_kernel", keys=("conv_kernel", "d_conv", "mamba_conv_kernel", "mamba_d_conv")),
        Read(
            size="ssm_state_size",
            keys=("state_size", "d_state", "state_dim", "ssm_state_size", "mamba_d_state", "mamba_state_dim"),
        ),
    ),
    needs=("layer_norm_epsilon",),
    rules=(
        kinds_known(EVERY_NAME, keys=("layers_block_type",), pattern_first=True),
        mlp_blocks_by_pattern,
        experts_by_key,
        number_of_blocks,
        one_further_layer,
        needed_for_experts("n_shared_experts", "norm_topk_prob", "routed_scaling_factor"),
        only_values({"hidden_act": ("silu",)}),
    ),
)
DENSE = dense_families(
    llama=f"llama.cpp {VERSION}, conversion/llama.py", qwen3=f"llama.cpp {VERSION}, conversion/qwen.py"
)
FURTHER = through_transformers(
    {
        "mistral": f"llama.cpp {VERSION}, conversion/llama.py",
        "qwen2": f"llama.cpp {VERSION}, conversion/qwen.py",
        "smollm3": f"llama.cpp {VERSION}, conversion/smollm.py",
        "gemma3_text": f"llama.cpp {VERSION}, conversion/gemma.py",
        "granitemoehybrid": f"llama.cpp {VERSION}, conversion/granite.py",
        "qwen3_moe": f"llama.cpp {VERSION}, conversion/qwen.py",
    },
    further={
        "smollm3": (
            every_nth("N", "have no positions", every=4, source=f"llama.cpp {VERSION}, src/models/smollm3.cpp"),
        ),
        "gemma3_text": (
            every_nth("T", "attend to everything", every=6, source=f"llama.cpp {VERSION}, src/models/gemma3.cpp"),
            always_tied(f"llama.cpp {VERSION}, conversion/gemma.py"),
        ),
        "granitemoehybrid": (names_alone("layer_types", GRANITE_KINDS),),
    },
    heads_by_hidden=("granitemoehybrid",),
)
LLAMACPP = Reader(
    name="llamacpp",
    version=VERSION,
    families={"nemotron_h": NEMOTRON_H, **DENSE, **FURTHER},
    notes=(
        "the converter must know the tokenizer's pre-tokenizer, which is not checked",
        "with transformers 5 the converter reads another config.json than the folder's; use the version it pins",
        "how llama.cpp splits a model over GPUs is not checked",
        "which weights of ModelOpt's the converter takes is not checked; w8a8 and w4a16 it takes, dequantized",
    ),
)
