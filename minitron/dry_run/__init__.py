"""Dry run: stages, hours, memory and disk of a run, from a recipe and the teacher's config.json alone. No torch."""
