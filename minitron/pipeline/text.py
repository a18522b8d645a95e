"""The recipe's text as the ground takes it, and what identifies it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from minitron.checkpoints.checkpoint import file_hash
from minitron.data.documents import is_text_file
from minitron.data.sources import TextSource
from minitron.recipe.source import Source


def text_sources(sources: Sequence[Source], *, held_out: bool = False) -> list[TextSource]:
    """The recipe's sources as the ground takes them, with one side of those that are split.

    Args:
        sources: The recipe's.
        held_out: Read the held-out part of each, for evaluation; else what is trained and calibrated on. A source
            that is not split is read whole on both sides.
    """
    side: Literal["held_out", "train"] = "held_out" if held_out else "train"
    return [TextSource(**source.model_dump(), part=side if source.held_out else "all") for source in sources]


def data_hashes(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """What identifies each source of text: the contents of a file, or the name of a dataset, and how it is read."""
    return [_hashed(source) for source in sources]


def _hashed(source: Source) -> dict[str, Any]:
    # Text that is not split keeps the hashes that it had before texts could be.
    found = source.model_dump(exclude=None if source.held_out else {"held_out"})
    if not is_text_file(source.path):
        return found
    return {key: value for key, value in found.items() if key != "path"} | {"content": file_hash(Path(source.path))}
