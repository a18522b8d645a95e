"""Measuring several checkpoints against one teacher, whole in memory or a block at a time."""
