"""Sources of the teacher's logits: a model in memory, one run block by block, and a cache on disk."""
