"""The stages' work: each reads what earlier stages wrote, calls one part of the package, and writes its own files.

This is the only place where the parts meet; the order of stages, resuming and skipping are `pipeline.py`'s.
"""

from minitron.stages.cache import cache_origin, run_cache
from minitron.stages.check import check_recipe
from minitron.stages.correct import correct_origin, run_correct
from minitron.stages.data import data_hashes, text_sources
from minitron.stages.depth import depth_distill_settings, depth_settings, run_depth, run_depth_distill
from minitron.stages.distill import recover, run_distill
from minitron.stages.evaluate import evaluate_folder, run_evaluate
from minitron.stages.files import (
    CANDIDATES_FILE,
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    PLAN_FILE,
    RECORD_FILE,
    SCORES_FILE,
    STATE_FOLDER,
    Folders,
    read_candidates,
    read_metrics,
)
from minitron.stages.prune import prune_origin, prune_section, prune_to, run_prune
from minitron.stages.repair import repair_folder, repair_settings
from minitron.stages.report import run_report
from minitron.stages.score import calibration_settings, run_score, score_folder, score_origin, score_rows, score_section
from minitron.stages.search import run_search, search_settings
from minitron.stages.train import teacher_origin, train_origin

__all__ = [
    "CANDIDATES_FILE",
    "CHECKPOINT_FOLDER",
    "METRICS_FILE",
    "PLAN_FILE",
    "RECORD_FILE",
    "SCORES_FILE",
    "STATE_FOLDER",
    "Folders",
    "cache_origin",
    "calibration_settings",
    "check_recipe",
    "correct_origin",
    "data_hashes",
    "depth_distill_settings",
    "depth_settings",
    "evaluate_folder",
    "prune_origin",
    "prune_section",
    "prune_to",
    "read_candidates",
    "read_metrics",
    "recover",
    "repair_folder",
    "repair_settings",
    "run_cache",
    "run_correct",
    "run_depth",
    "run_depth_distill",
    "run_distill",
    "run_evaluate",
    "run_prune",
    "run_report",
    "run_score",
    "run_search",
    "score_folder",
    "score_origin",
    "score_rows",
    "score_section",
    "search_settings",
    "teacher_origin",
    "text_sources",
    "train_origin",
]
