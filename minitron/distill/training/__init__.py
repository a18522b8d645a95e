"""Training one phase with Hugging Face Trainer."""
