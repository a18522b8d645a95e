"""Models whose blocks of text lie in parts on several processes (context parallelism)."""
