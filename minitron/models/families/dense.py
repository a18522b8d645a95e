"""Dense transformers: attention and a gated MLP in every layer (llama, mistral, qwen2, qwen3, smollm3, gemma3_text).

Source of names: transformers 5.23, models/{llama,mistral,qwen2,qwen3,smollm3,gemma3}/.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from minitron.errors import ShapeError
from minitron.models.axes import TensorSpec
from minitron.models.families import mixers
from minitron.models.families.family import Branch, Family, HookPoint
from minitron.models.families.layer_lists import BlockPattern, LayerList
from minitron.models.families.mixers import HIDDEN, VOCAB
from minitron.models.families.multiple import Multiple

GATED_MLP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
# How transformers names layers in `layer_types`.
LAYER_TYPES = {"T": ("full_attention",), "N": ("full_attention",), "S": ("sliding_attention",)}
WHOLE_HEADS = Multiple(
    sizes=("hidden_size",), of=("num_attention_heads",), because="transformers refuses others, whatever the head_dim"
)


def default_head_dim(sizes: Mapping[str, int]) -> int:
    """What transformers takes where a configuration has no `head_dim`."""
    return sizes["hidden_size"] // sizes["num_attention_heads"]


def layer(*mixer: TensorSpec) -> tuple[TensorSpec, ...]:
    """A layer of a mixer and a gated MLP, each behind its norm."""
    return (
        mixers.norm("input_layernorm.weight"),
        *mixer,
        mixers.norm("post_attention_layernorm.weight"),
        *mixers.gated_feed_forward("mlp"),
    )


def all_alike(letter: str) -> Callable[[Mapping[str, object], int], str]:
    """The pattern of blocks of one kind."""
    return lambda _, blocks: letter * blocks


def tied(*, multiplied: bool = False, plus: float = 0.0) -> tuple[TensorSpec, ...]:
    """Embeddings, final norm, and a head that may be the embeddings again.

    Args:
        multiplied: Whether embeddings are multiplied by the root of the hidden size.
        plus: What is added to the final norm's weight.
    """
    head = TensorSpec("lm_head.weight", (VOCAB, HIDDEN), lacks="tie_word_embeddings")
    final = mixers.norm("model.norm.weight", plus=plus)
    if not multiplied:
        return TensorSpec("model.embed_tokens.weight", (VOCAB, HIDDEN)), final, head
    return (
        TensorSpec("model.embed_tokens.weight", (VOCAB, HIDDEN), hidden_power=0.5),
        # A head that is the embeddings again changes with them: the norm before it makes up for that.
        replace(final, hidden_power=-0.5, needs="tie_word_embeddings"),
        replace(final, lacks="tie_word_embeddings"),
        head,
    )


LLAMA = Family(
    model_type="llama",
    block_kinds={"T": "attention and MLP"},
    pattern=BlockPattern(
        letters="T", lists=(LayerList(key="layer_types", values=LAYER_TYPES),), default=all_alike("T")
    ),
    axes=mixers.by_name(*mixers.transformer_axes("T", mlp="T")),
    config_keys={**mixers.TRANSFORMER_KEYS, "tie_word_embeddings": ("tie_word_embeddings",)},
    switches=("tie_word_embeddings",),
    defaults={
        "num_key_value_heads": lambda sizes: sizes["num_attention_heads"],
        "head_dim": default_head_dim,
        "tie_word_embeddings": lambda _: 0,
    },
    multiples=(WHOLE_HEADS,),
    embeddings="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    head="lm_head.weight",
    model_tensors=tied(),
    block_tensors={"T": layer(*mixers.attention("self_attn"))},
    block_prefix="model.layers.{layer}.",
    prefix_on_disk="model.",
    prefix_in_memory="model.",
    computed=("rotary_emb.inv_freq",),
    only_values={"attention_bias": (False,), "mlp_bias": (False,), "use_sliding_window": (False,)},
    keeps={"T": "kv"},
    hook_points={
        "hidden": {
            "T": (
                mixers.read_from("input_layernorm", *mixers.attention_readers("self_attn")),
                mixers.read_from("post_attention_layernorm", *GATED_MLP),
            )
        },
        "ffn": {"T": mixers.input_of("mlp.down_proj")},
        "ffn_preactivation": {"T": (HookPoint(module="mlp.gate_proj", side="output"),)},
        "attention_output": {"T": mixers.input_of("self_attn.o_proj")},
    },
    branches={
        "T": (
            Branch(projection="self_attn.o_proj", entered="post_attention_layernorm"),
            Branch(projection="mlp.down_proj"),
        )
    },
)

QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    block_tensors={"T": layer(*mixers.attention("self_attn", head_norms=0.0))},
    multiples=(),
    # transformers 5.23 reads 128 where a configuration has no head_dim.
    defaults={**LLAMA.defaults, "head_dim": lambda _: 128},
)

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    block_tensors={"T": layer(*mixers.attention("self_attn", biases=("q", "k", "v")))},
    multiples=(),
    defaults={**LLAMA.defaults, "num_key_value_heads": lambda _: 32},
)


def in_letters(family: Family, letters: str) -> Family:
    """A family of one kind of layer, with the same declarations for the kinds of some letters."""
    (old,) = family.block_tensors
    return replace(
        family,
        axes={
            name: axis if axis.blocks is None else replace(axis, blocks=letters) for name, axis in family.axes.items()
        },
        block_tensors=dict.fromkeys(letters, family.block_tensors[old]),
        hook_points={name: dict.fromkeys(letters, points[old]) for name, points in family.hook_points.items()},
        branches=dict.fromkeys(letters, family.branches[old]),
        keeps={letter: "window" if letter == "S" else "kv" for letter in letters},
    )


def _mistral_pattern(config: Mapping[str, object], blocks: int) -> str:
    if "sliding_window" not in config:  # transformers 5.23 takes 4096 then, other readers none
        raise ShapeError("config.json must give sliding_window, a number of tokens or null, it has none")
    return ("T" if config["sliding_window"] is None else "S") * blocks


MISTRAL = replace(
    in_letters(LLAMA, "TS"),
    model_type="mistral",
    block_kinds={"T": "attention and MLP", "S": "attention in a window and MLP"},
    pattern=BlockPattern(letters="TS", lists=(), default=_mistral_pattern),
    config_keys={**LLAMA.config_keys, "sliding_window": ("sliding_window",)},
    defaults={**LLAMA.defaults, "num_key_value_heads": lambda _: 8, "sliding_window": lambda _: 0},
    multiples=(),
)


def _smollm3_pattern(config: Mapping[str, object], blocks: int) -> str:
    interval = config.get("no_rope_layer_interval", 4)
    assert isinstance(interval, int)
    return "".join("T" if (layer + 1) % interval else "N" for layer in range(blocks))


SMOLLM3 = replace(
    in_letters(LLAMA, "TN"),
    model_type="smollm3",
    block_kinds={"T": "attention and MLP", "N": "attention without positions and MLP"},
    pattern=BlockPattern(
        letters="TN",
        lists=(
            LayerList(key="no_rope_layers", values={"T": (1,), "N": (0,)}),
            LayerList(key="layer_types", values=LAYER_TYPES),
        ),
        default=_smollm3_pattern,
    ),
    defaults={**LLAMA.defaults, "num_key_value_heads": lambda _: 4, "tie_word_embeddings": lambda _: 1},
    multiples=(),
)

_GEMMA_LAYER = (
    mixers.norm("input_layernorm.weight", plus=1.0),
    *mixers.attention("self_attn", head_norms=1.0),
    mixers.norm("post_attention_layernorm.weight", plus=1.0),
    mixers.norm("pre_feedforward_layernorm.weight", plus=1.0),
    *mixers.gated_feed_forward("mlp"),
    mixers.norm("post_feedforward_layernorm.weight", plus=1.0),
)


def _gemma_pattern(config: Mapping[str, object], blocks: int) -> str:
    interval = config.get("sliding_window_pattern", 6)
    assert isinstance(interval, int)
    return "".join("S" if (layer + 1) % interval else "T" for layer in range(blocks))


# Embeddings are multiplied by the root of the hidden size. Each branch ends in a norm of its own, so its projection is
# refitted to what the teacher's norm reads.
GEMMA3_TEXT = replace(
    in_letters(
        replace(
            LLAMA,
            block_tensors={"T": _GEMMA_LAYER},
            hook_points={
                **LLAMA.hook_points,
                "hidden": {
                    "T": (
                        mixers.read_from("input_layernorm", *mixers.attention_readers("self_attn")),
                        mixers.read_from("pre_feedforward_layernorm", *GATED_MLP),
                    )
                },
            },
            branches={
                "T": (
                    Branch(projection="self_attn.o_proj", entered="post_attention_layernorm"),
                    Branch(projection="mlp.down_proj", entered="post_feedforward_layernorm"),
                )
            },
        ),
        "TS",
    ),
    model_type="gemma3_text",
    block_kinds={"T": "attention and MLP", "S": "attention in a window and MLP"},
    pattern=BlockPattern(
        letters="TS",
        lists=(LayerList(key="layer_types", values=LAYER_TYPES),),
        default=_gemma_pattern,
        rules={"sliding_window_pattern": None},
    ),
    config_keys={**LLAMA.config_keys, "sliding_window": ("sliding_window",)},
    defaults={
        "num_attention_heads": lambda _: 8,
        "num_key_value_heads": lambda _: 4,
        "head_dim": lambda _: 256,
        "tie_word_embeddings": lambda _: 1,
        "sliding_window": lambda _: 4096,
    },
    model_tensors=tied(multiplied=True, plus=1.0),
    beside=("vision_tower.", "model.vision_tower.", "multi_modal_projector.", "model.multi_modal_projector."),
    only_values={"attention_bias": (False,), "use_bidirectional_attention": (False,)},
)
