"""Teacher + pruned student -> recovered student: loss, teachers, training."""
