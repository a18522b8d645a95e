"""Loaded models: loading, backbone, activation hooks, the layerwise stack, residual streams."""
