"""What others see of a run: a page about it, and its checkpoint on the hub."""
