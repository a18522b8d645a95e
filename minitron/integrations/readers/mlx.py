"""What mlx-lm reads: the fields of its `ModelArgs`, under one spelling each, without defaults for most."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from minitron.integrations.readers.families import reads_of
from minitron.integrations.readers.patterns import GRANITE_KINDS, every_nth, names_alone
from minitron.integrations.readers.reader import Config, Family, Reader, Refusal, Rule, defaults, spelt
from minitron.integrations.readers.rules import kinds_known, needed_for_experts, not_given, quantizations
from minitron.integrations.readers.transformers import EVERY_NAME, LISTS
from minitron.models.families.mixers import EXPERT_KEYS, TRANSFORMER_KEYS
from minitron.models.shape import HybridShape

VERSION = "0.32.2"
# What its llama takes where there is no rope_theta.
THETA, QWEN2_THETA = 10000, 1000000
# Its models of these families know no scales by the names in such files; `mlx_lm.convert --quantize` makes its own.
UNQUANTIZED = quantizations({}, source=f"mlx-lm {VERSION}, utils.py and models/")


def rotary_where_it_looks(assumed: int) -> Rule:
    """The base of rotary positions must lie beside the sizes: mlx-lm does not look into `rope_parameters` for it.

    Args:
        assumed: What it takes where there is none.
    """

    def rule(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
        nested = config.get("rope_parameters")
        if not isinstance(nested, Mapping):
            return
        if isinstance(nested.get("full_attention"), Mapping):  # Gemma 3's, one for each kind of layer
            nested = nested["full_attention"]
        theta, kind = nested.get("rope_theta"), nested.get("rope_type", "default")
        must = "be given beside the sizes"
        if config.get("rope_theta") is None and theta not in (None, assumed):
            found = f"it is in rope_parameters, and the reader takes {assumed} for {theta}"
            yield not_given("rope_theta", theta, source=family.source, rule=must, found=found)
        if config.get("rope_scaling") is None and kind != "default":
            found = f"{kind} is in rope_parameters, and the reader takes none"
            mend = 'write "rope_scaling" with what rope_parameters holds'
            yield Refusal(key="rope_scaling", rule=must, found=found, mend=mend, source=family.source)

    return rule


def theta_anywhere(config: Config, shape: HybridShape, family: Family) -> Iterator[Refusal]:
    """The base of rotary positions must be given, by itself or in `rope_parameters`."""
    nested = config.get("rope_parameters")
    inner = nested.get("rope_theta") if isinstance(nested, Mapping) else None
    if config.get("rope_theta") is None and inner is None:
        yield not_given("rope_theta", source=family.source, rule="be given, by itself or in rope_parameters")


NEMOTRON_H = Family(
    source=f"mlx-lm {VERSION}, models/nemotron_h.py",
    reads=(
        *spelt(
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "mamba_num_heads",
            "mamba_head_dim",
            "ssm_state_size",
            "conv_kernel",
            "n_groups",
            *EXPERT_KEYS,
        ),
        *defaults(head_dim=lambda sizes: sizes["hidden_size"] // sizes["num_attention_heads"], moe_latent_size=0),
    ),
    needs=(
        "max_position_embeddings",
        "attention_bias",
        "mamba_proj_bias",
        "mlp_bias",
        "layer_norm_epsilon",
        "use_bias",
        "use_conv_bias",
    ),
    rules=(
        kinds_known(EVERY_NAME, keys=LISTS, pattern_first=True),
        needed_for_experts("n_shared_experts", "norm_topk_prob", "routed_scaling_factor"),
        UNQUANTIZED,
    ),
)
LLAMA = Family(
    source=f"mlx-lm {VERSION}, models/llama.py",
    reads=(
        *spelt("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"),
        *defaults(
            num_key_value_heads=lambda sizes: sizes["num_attention_heads"],
            head_dim=lambda sizes: sizes["hidden_size"] // sizes["num_attention_heads"],
            tie_word_embeddings=1,
        ),
    ),
    needs=("rms_norm_eps",),
    rules=(rotary_where_it_looks(THETA), UNQUANTIZED),
)
QWEN3 = Family(
    source=f"mlx-lm {VERSION}, models/qwen3.py",
    reads=spelt(*TRANSFORMER_KEYS),
    needs=("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
    rules=(theta_anywhere, UNQUANTIZED),
)
GEMMA = f"mlx-lm {VERSION}, models/gemma3_text.py"
FURTHER = {
    "mistral": replace(LLAMA, reads=(*LLAMA.reads, *defaults(sliding_window=0)), source=f"mlx-lm {VERSION}, utils.py"),
    "qwen2": Family(
        source=f"mlx-lm {VERSION}, models/qwen2.py",
        reads=(
            *spelt("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
            *defaults(tie_word_embeddings=1),
        ),
        needs=("rms_norm_eps",),
        rules=(rotary_where_it_looks(QWEN2_THETA), UNQUANTIZED),
    ),
    "smollm3": replace(LLAMA, source=f"mlx-lm {VERSION}, models/smollm3.py"),
    "gemma3_text": Family(
        source=GEMMA,
        reads=defaults(
            vocab_size=262144,
            hidden_size=1152,
            intermediate_size=6912,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=256,
            sliding_window=512,
        ),
        rules=(
            every_nth("T", "attend to everything", every=6, key="sliding_window_pattern", source=GEMMA),
            rotary_where_it_looks(QWEN2_THETA),
            UNQUANTIZED,
        ),
    ),
    "granitemoehybrid": Family(
        source=f"mlx-lm {VERSION}, models/granitemoehybrid.py",
        reads=reads_of("granitemoehybrid", without=("head_dim", "tie_word_embeddings")),
        needs=(
            "max_position_embeddings",
            "attention_bias",
            "embedding_multiplier",
            "attention_multiplier",
            "logits_scaling",
            "residual_multiplier",
            "rms_norm_eps",
        ),
        rules=(names_alone("layer_types", GRANITE_KINDS), UNQUANTIZED),
    ),
    "qwen3_moe": Family(
        source=f"mlx-lm {VERSION}, models/qwen3_moe.py",
        reads=tuple(replace(read, default=None) for read in reads_of("qwen3_moe")),
        needs=(
            "decoder_sparse_step",
            "mlp_only_layers",
            "norm_topk_prob",
            "max_position_embeddings",
            "rms_norm_eps",
            "rope_theta",
        ),
        rules=(UNQUANTIZED,),
    ),
}
MLX = Reader(
    name="mlx", version=VERSION, families={"nemotron_h": NEMOTRON_H, "llama": LLAMA, "qwen3": QWEN3, **FURTHER}
)
