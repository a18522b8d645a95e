"""The distillation loss: divergences from chunked logits, cross-entropy, hidden states."""
