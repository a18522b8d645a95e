"""The YAML recipe: every setting of a run, validated whole before anything starts."""
