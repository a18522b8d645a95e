collect_ignore = ["mlx_tokens.py"]  # a program for another process; doctest would import mlx, which may be absent
