"""The distillation loss: divergences and cross-entropy of logits made a few tokens at a time, and hidden states."""
