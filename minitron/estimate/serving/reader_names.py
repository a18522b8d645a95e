"""Names of the serving engines (readers) that checkpoints are checked for, as recipes and commands spell them."""

from typing import Literal, get_args

ReaderName = Literal[
    "vllm", "sglang", "llamacpp", "tensorrt-llm", "mlx", "transformers", "vllm@0.11", "transformers@5.12"
]
"""A reader, in the newest version that was read, or in an older one that many still run."""
READERS: tuple[ReaderName, ...] = get_args(ReaderName)
# Those that are asked where none is named.
NEWEST = tuple(name for name in READERS if "@" not in name)
