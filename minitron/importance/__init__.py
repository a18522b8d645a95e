"""Calibration batches -> Scores: how much each unit of a model matters."""

from minitron.importance.calibrate import calibrate
from minitron.importance.scores import Scores, load_scores, random_scores, save_scores
from minitron.importance.select import select_units, top_blocks

__all__ = ["Scores", "calibrate", "load_scores", "random_scores", "save_scores", "select_units", "top_blocks"]
