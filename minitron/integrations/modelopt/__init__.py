"""NVIDIA ModelOpt: the pruning mode `minitron`, its constraints, and post-training quantization."""
