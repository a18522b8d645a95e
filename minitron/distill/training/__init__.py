"""One training stage by Hugging Face Trainer."""
