"""How readers read most families: through transformers' configuration classes, or copies that agree with them."""

from collections.abc import Mapping

from minitron.integrations.readers.reader import Family, Read, Rule
from minitron.models.families import FAMILIES

ARCHITECTURES = {
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "bamba": "BambaForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
}


def reads_of(model_type: str, *, without: tuple[str, ...] = ()) -> tuple[Read, ...]:
    """The sizes of a family under its own spellings, with the defaults of transformers.

    Args:
        model_type: The family.
        without: Sizes that the reader does not read.
    """
    family = FAMILIES[model_type]
    return tuple(
        Read(size=size, keys=spellings[:1], default=family.defaults.get(size))
        for size, spellings in family.config_keys.items()
        if size not in without
    )


def through_transformers(
    sources: Mapping[str, str],
    *,
    rules: tuple[Rule, ...] = (),
    further: Mapping[str, tuple[Rule, ...]] | None = None,
    heads_by_hidden: tuple[str, ...] = (),
    by_architecture: bool = True,
) -> dict[str, Family]:
    """Declarations of families that a reader reads so.

    Args:
        sources: `model_type` -> where the reader reads it.
        rules: Its rules about keys of all of them.
        further: `model_type` -> its rules about keys of that family.
        heads_by_hidden: Families of which it does not read head_dim; that is a rule about their shapes.
        by_architecture: Whether it goes by `architectures` and not by `model_type`.
    """
    return {
        model_type: Family(
            source=source,
            architectures=(ARCHITECTURES[model_type],) if by_architecture else (),
            reads=reads_of(model_type, without=("head_dim",) if model_type in heads_by_hidden else ()),
            rules=(*(further or {}).get(model_type, ()), *rules),
        )
        for model_type, source in sources.items()
    }
