"""Bytes and speed of serving a model: weights, caches, vLLM's cache blocks, throughput, fit."""
