# Programs for other processes; doctest would import mlx, which may be absent.
collect_ignore = ["mlx_tokens.py", "reader_configs.py", "unpack_readers.py"]
