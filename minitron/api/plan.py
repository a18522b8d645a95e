"""Looking at pruning plans."""

from pathlib import Path

from minitron.checkpoints.checkpoint import PLAN_FILE
from minitron.errors import MinitronError
from minitron.prune.plan import load_plan
from minitron.prune.plan_summary import PlanDifference, PlanSummary, describe_plan, diff_plans


def find_plan(path: Path) -> Path:
    """A plan's file, given as itself or as the folder that holds it.

    Raises:
        MinitronError: There is none.
    """
    found = path / PLAN_FILE if path.is_dir() else path
    if not found.is_file():
        raise MinitronError(f"a plan must be a file or a folder that holds {PLAN_FILE}, {path} is neither")
    return found


def show_plan(path: Path) -> PlanSummary:
    """What a plan keeps and cuts."""
    return describe_plan(load_plan(find_plan(path)))


def compare_plans(path: Path, other: Path) -> PlanDifference:
    """How two plans for one source differ."""
    return diff_plans(load_plan(find_plan(path)), load_plan(find_plan(other)))
