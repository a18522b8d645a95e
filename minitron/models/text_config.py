"""The text model inside the configuration of one that sees, too: what is pruned and distilled is the text model."""

from collections.abc import Mapping
from dataclasses import dataclass

from minitron.artifacts.json_files import JsonObject, JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """The text model of a family of models that see.

    Attributes:
        model_type: Its `model_type`.
        architecture: transformers' class of it.
    """

    model_type: str
    architecture: str


# `model_type` of the whole -> its text model. Source: transformers 5.23, models/auto/.
TEXT_MODELS = {
    "gemma3": TextModel(model_type="gemma3_text", architecture="Gemma3ForCausalLM"),
    "qwen3_5": TextModel(model_type="qwen3_5_text", architecture="Qwen3_5ForCausalLM"),
    "qwen3_5_moe": TextModel(model_type="qwen3_5_moe_text", architecture="Qwen3_5MoeForCausalLM"),
}
# What the whole's configuration says for the text model, too, where the inner one does not.
SHARED = (
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
)


def text_config(config: Mapping[str, JsonValue]) -> JsonObject:
    """The configuration of the text model alone; a configuration of a text model as it is."""
    text, inner = TEXT_MODELS.get(str(config.get("model_type"))), config.get("text_config")
    if text is None or not isinstance(inner, Mapping):
        return dict(config)
    shared = {key: config[key] for key in SHARED if config.get(key) is not None}
    return {**shared, **inner, "model_type": text.model_type, "architectures": [text.architecture]}
