"""Checkpoint -> a quantized checkpoint by ModelOpt, repaired and verified tensor by tensor."""
