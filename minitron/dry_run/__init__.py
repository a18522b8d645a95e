"""What a run would do, take and need, from the recipe and the teacher's config.json alone: no weights, no torch."""
