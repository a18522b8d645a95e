"""Model families by `model_type`. Adding one is a file of declarations and a line here."""

from minitron.models.families.dense import LLAMA, QWEN3
from minitron.models.families.family import Branch, Family, HookPoint
from minitron.models.families.nemotron_h import NEMOTRON_H

FAMILIES = {family.model_type: family for family in (NEMOTRON_H, LLAMA, QWEN3)}

__all__ = ["FAMILIES", "LLAMA", "NEMOTRON_H", "QWEN3", "Branch", "Family", "HookPoint"]
