# Programs for other processes; doctest would import mlx and vLLM, which may be absent.
collect_ignore = ["family_configs.py", "mlx_tokens.py", "reader_configs.py", "unpack_readers.py"]
collect_ignore_glob = ["vllm_*.py"]
