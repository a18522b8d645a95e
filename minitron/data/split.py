"""The sides of a split by hash: what evaluation alone reads, what a training is watched by, what it is trained on."""

import hashlib
from typing import Literal, TypeAlias

from minitron.data.conversations import Document

Part: TypeAlias = Literal["all", "train", "validation", "held_out"]


def part_of(document: Document, *, held_out: float, validation: float = 0.0) -> Part:
    """The side that a document is on: a hash of its text alone decides, wherever it is stored.

    Args:
        document: Text, or a conversation.
        held_out: Share of all documents that only evaluation reads.
        validation: Share that a training is watched by.

    >>> [part_of(text, held_out=0.25, validation=0.25) for text in ("one", "two", "three")]
    ['validation', 'held_out', 'train']
    """
    text = document if isinstance(document, str) else document.text
    place = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    if place < held_out * 2**64:
        return "held_out"
    return "validation" if place < (held_out + validation) * 2**64 else "train"
