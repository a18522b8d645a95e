"""Calibration samples -> Scores: how much each unit and block of a model matters."""

from minitron.importance.calibrate import CalibrationSettings, calibrate
from minitron.importance.depth import BlockQuotas, LogitDepth
from minitron.importance.listen import listen
from minitron.importance.retained import retained_shares
from minitron.importance.scorers import SCORED_AXES, SCORERS, ActivationScorer
from minitron.importance.scores import Scores, load_scores, random_scores, save_scores, stale_parts
from minitron.importance.select import mamba_channels, mamba_heads, select_units, top_blocks

__all__ = [
    "SCORED_AXES",
    "SCORERS",
    "ActivationScorer",
    "BlockQuotas",
    "CalibrationSettings",
    "LogitDepth",
    "Scores",
    "calibrate",
    "listen",
    "load_scores",
    "mamba_channels",
    "mamba_heads",
    "random_scores",
    "retained_shares",
    "save_scores",
    "select_units",
    "stale_parts",
    "top_blocks",
]
