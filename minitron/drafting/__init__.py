"""A first recipe for a checkpoint and a memory: sizes that fit, training that its GPUs hold. Loads no torch."""
