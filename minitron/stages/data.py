"""The recipe's text as the ground takes it, and what identifies it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minitron.hybrid.blocks import TextSource
from minitron.hybrid.checkpoint import file_hash
from minitron.hybrid.text import is_text_file
from minitron.recipe import Source


def text_sources(sources: Sequence[Source]) -> list[TextSource]:
    """The recipe's sources as the ground takes them."""
    return [TextSource(**source.model_dump()) for source in sources]


def data_hashes(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """What identifies each source of text: the contents of a file, or the name of a dataset, and how it is read."""
    return [
        {**source.model_dump(exclude={"path"}), "content": file_hash(Path(source.path))}
        if is_text_file(source.path)
        else source.model_dump()
        for source in sources
    ]
