"""Exporting a checkpoint for other engines. Loads no torch."""

from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.hub import find_checkpoint
from minitron.integrations.gguf.export import Exported, export_checkpoint
from minitron.integrations.gguf.settings import ExportSettings


def export(
    checkpoint: str | Path,
    *,
    output: str | Path,
    format: str = "gguf",
    dtype: str | None = None,
    pre_tokenizer: str | None = None,
) -> Exported:
    """Writes a checkpoint as one file for llama.cpp, whole or not at all; the model is never held in memory.

    Args:
        checkpoint: Hugging Face checkpoint folder, or name on the hub, of a nemotron_h, llama or qwen3.
        output: File that is not there yet.
        format: gguf; takes the package gguf, which the extra of that name installs.
        dtype: Precision of matrices: f32, f16, bf16 or q8_0; each as it is stored when None. What llama.cpp takes in
            fp32 alone stays in fp32.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer; found from `tokenizer.json` when None.

    Returns:
        What was written: `output`, `architecture`, `pre_tokenizer`, `params`, `tensors`, `types`, `bytes`.

    Raises:
        MinitronError: The checkpoint, its tokenizer or a setting cannot be exported, or the output exists.

    Example:
        ```python
        exported = minitron.export("student/", output="student.gguf", dtype="q8_0")
        print(exported.architecture, exported.bytes, exported.types)
        ```
    """
    settings = ExportSettings(format=format, dtype=dtype, pre_tokenizer=pre_tokenizer)
    return export_checkpoint(open_checkpoint(find_checkpoint(checkpoint)), settings, Path(output))
