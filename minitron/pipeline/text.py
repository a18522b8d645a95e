"""A recipe's sources of text as the data package reads them."""

from collections.abc import Sequence
from typing import Literal

from minitron.data.sources import TextSource
from minitron.recipe.source import Source


def text_sources(sources: Sequence[Source], *, held_out: bool = False) -> list[TextSource]:
    """A recipe's sources as the data package reads them, with one side of those that are split.

    Args:
        sources: The recipe's.
        held_out: Read the held-out part of each, for evaluation; else what is trained and calibrated on. A source
            that is not split is read whole on both sides.
    """
    side: Literal["held_out", "train"] = "held_out" if held_out else "train"
    return [TextSource(**source.model_dump(), part=side if source.held_out else "all") for source in sources]
