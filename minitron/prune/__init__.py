"""Scores + Candidate -> a smaller checkpoint that plain transformers loads."""

from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.compensate import norm_scales
from minitron.prune.gate import check_logits, check_params
from minitron.prune.memory import prune_in_place, prune_model
from minitron.prune.plan import PrunePlan, load_plan, save_plan
from minitron.prune.repairing import RepairSettings, apply_repaired, refit, repair, write_repaired
from minitron.prune.view import describe_plan, diff_plans
from minitron.prune.writing import is_unfinished

__all__ = [
    "PrunePlan",
    "RepairSettings",
    "apply_repaired",
    "check_logits",
    "check_params",
    "describe_plan",
    "diff_plans",
    "is_unfinished",
    "load_plan",
    "norm_scales",
    "prune_checkpoint",
    "prune_in_place",
    "prune_model",
    "refit",
    "repair",
    "save_plan",
    "write_repaired",
]
