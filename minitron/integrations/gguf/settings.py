"""How a checkpoint is exported. Loads neither torch nor the package gguf."""

import importlib.util
from dataclasses import dataclass

from minitron.errors import MinitronError

FORMATS = ("gguf",)
# Precisions of matrices, as llama.cpp spells them.
DTYPES = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """How a checkpoint is exported.

    Attributes:
        format: One of `FORMATS`.
        dtype: One of `DTYPES`; each matrix as it is stored when None.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer; found from the tokenizer's own declaration when None.
    """

    format: str
    dtype: str | None = None
    pre_tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise MinitronError(f"a format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.dtype not in (None, *DTYPES):
            raise MinitronError(f"a dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.pre_tokenizer is not None and not self.pre_tokenizer.strip():
            raise MinitronError(f"a pre-tokenizer must have a name, got {self.pre_tokenizer!r}")


def require_gguf() -> None:
    """Refuses to go on without the package that writes the files.

    Raises:
        MinitronError: The package gguf is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MinitronError(
            "the package gguf must be installed to write GGUF files, it is not; pip install 'minitron[gguf]'"
        )
