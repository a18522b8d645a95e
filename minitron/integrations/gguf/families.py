"""Model families that are exported, by `model_type`. Adding one is a file of declarations and a line here."""

from minitron.errors import MinitronError
from minitron.integrations.gguf.dense import LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3
from minitron.integrations.gguf.family import GgufFamily
from minitron.integrations.gguf.granite import BAMBA, GRANITEMOEHYBRID
from minitron.integrations.gguf.nemotron_h import NEMOTRON_H
from minitron.integrations.gguf.qwen_moe import QWEN3_MOE

FAMILIES = {
    "nemotron_h": NEMOTRON_H,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "smollm3": SMOLLM3,
    "granitemoehybrid": GRANITEMOEHYBRID,
    "bamba": BAMBA,
    "qwen3_moe": QWEN3_MOE,
}


def gguf_family(model_type: str) -> GgufFamily:
    """The declarations of a family.

    Raises:
        MinitronError: It is not exported.
    """
    if model_type not in FAMILIES:
        raise MinitronError(f"model_type must be one of {', '.join(FAMILIES)} to be exported, got {model_type!r}")
    return FAMILIES[model_type]
