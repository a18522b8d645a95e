"""Teacher + pruned model -> the pruned model's projections refitted in closed form."""

from minitron.prune.repairing.blockwise import RepairSettings, apply_repaired, repair
from minitron.prune.repairing.refit import refit
from minitron.prune.repairing.write import write_repaired

__all__ = ["RepairSettings", "apply_repaired", "refit", "repair", "write_repaired"]
