"""Model families by `model_type`. Adding one is a file of declarations and a line here."""

from minitron.hybrid.families.family import Branch, Family, Tap
from minitron.hybrid.families.nemotron_h import NEMOTRON_H

FAMILIES = {family.model_type: family for family in (NEMOTRON_H,)}

__all__ = ["FAMILIES", "NEMOTRON_H", "Branch", "Family", "Tap"]
