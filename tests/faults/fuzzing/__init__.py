"""Hostile inputs for everything that reads a file of a stranger's: seeded mutations, readers, and what may come out."""
