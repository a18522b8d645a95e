"""Checkpoint -> a quantised checkpoint by NVIDIA ModelOpt, repaired and checked tensor by tensor."""

from minitron.quantize.export import QUANTISED_FORMATS, QuantiseSettings, quantise_checkpoint

__all__ = ["QUANTISED_FORMATS", "QuantiseSettings", "quantise_checkpoint"]
