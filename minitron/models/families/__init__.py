"""Model families by `model_type`. Adding one is a file of declarations and a line here."""

from minitron.models.families.dense import GEMMA3_TEXT, LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3
from minitron.models.families.family import Branch, Family, HookPoint
from minitron.models.families.granite import BAMBA, GRANITEMOEHYBRID
from minitron.models.families.nemotron_h import NEMOTRON_H
from minitron.models.families.qwen_moe import QWEN3_5_MOE_TEXT, QWEN3_5_TEXT, QWEN3_MOE

FAMILIES = {
    family.model_type: family
    for family in (
        NEMOTRON_H,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        SMOLLM3,
        GEMMA3_TEXT,
        GRANITEMOEHYBRID,
        BAMBA,
        QWEN3_MOE,
        QWEN3_5_TEXT,
        QWEN3_5_MOE_TEXT,
    )
}

__all__ = ["FAMILIES", "Branch", "Family", "HookPoint"]
