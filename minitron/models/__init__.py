"""What a model is, as data: axes, families, shapes, configurations, quotas, slicing."""
