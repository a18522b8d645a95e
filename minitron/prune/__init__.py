"""Scores + Candidate -> a smaller checkpoint that plain transformers loads."""

from minitron.prune.checkpoint import check_params, prune_checkpoint
from minitron.prune.memory import prune_model
from minitron.prune.plan import PrunePlan, load_plan, save_plan
from minitron.prune.refit import refit
from minitron.prune.repair import RepairSettings, apply_repaired, repair
from minitron.prune.write_repaired import write_repaired

__all__ = [
    "PrunePlan",
    "RepairSettings",
    "apply_repaired",
    "check_params",
    "load_plan",
    "prune_checkpoint",
    "prune_model",
    "refit",
    "repair",
    "save_plan",
    "write_repaired",
]
