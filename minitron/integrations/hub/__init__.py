"""Checkpoints on their way to the Hugging Face hub: what would be uploaded, and the upload."""
