"""Quantization by ModelOpt: its export, and the repair of the lists of modules in it."""
