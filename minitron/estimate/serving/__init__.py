"""Bytes and speed of serving a model: weights, caches, vLLM's pages, throughput, fit."""
