"""Commands that show others a run: its page, and its checkpoint on the hub."""
