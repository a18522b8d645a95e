"""Model families that are exported, by `model_type`. Adding one is a file of declarations and a line here."""

from minitron.errors import MinitronError
from minitron.integrations.gguf.dense import LLAMA, QWEN3
from minitron.integrations.gguf.family import GgufFamily
from minitron.integrations.gguf.nemotron_h import NEMOTRON_H

FAMILIES = {"nemotron_h": NEMOTRON_H, "llama": LLAMA, "qwen3": QWEN3}


def gguf_family(model_type: str) -> GgufFamily:
    """The declarations of a family.

    Raises:
        MinitronError: It is not exported.
    """
    if model_type not in FAMILIES:
        raise MinitronError(f"model_type must be one of {', '.join(FAMILIES)} to be exported, got {model_type!r}")
    return FAMILIES[model_type]
