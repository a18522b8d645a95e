"""A stage of training by Hugging Face Trainer."""
