"""Calibration samples -> Scores: how much each unit and block of a model matters."""
