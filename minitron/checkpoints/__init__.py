"""Hugging Face checkpoint folders: safetensors headers, reading, writing shards, tensor names, lineage, merging."""
