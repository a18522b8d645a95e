"""Folders that are written whole or not at all: atomic files, locks, hashes, resuming."""
