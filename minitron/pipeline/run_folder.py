"""What the stages call their files in a run folder, and reading back what people and later stages ask for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minitron.checkpoints import checkpoint
from minitron.recipe.recipe import Recipe

SCORES_FILE = "scores.safetensors"
CANDIDATES_FILE = "candidates.json"
PLAN_FILE = checkpoint.PLAN_FILE
CHECKPOINT_FOLDER = "checkpoint"
STATE_FOLDER = "state"
TRAINED_FOLDER = "trained"
RECORD_FILE = "record.json"
METRICS_FILE = "metrics.json"

Folders = Mapping[str, Path]


def cut_source(recipe: Recipe, folders: Folders) -> Path:
    """The checkpoint that is scored, searched and pruned: the teacher, or what the first of two steps left of it."""
    return Path(recipe.teacher) if recipe.depth_first is None else folders["depth_distill"] / CHECKPOINT_FOLDER


def read_candidates(folder: Path) -> dict[str, Any]:
    """The search stage's result."""
    candidates: dict[str, Any] = json.loads((folder / CANDIDATES_FILE).read_text())
    return candidates


def read_metrics(folder: Path) -> dict[str, Any]:
    """The evaluate stage's result."""
    metrics: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text())
    return metrics
