"""A recipe's sources of text as the data package reads them, and their split into what is trained on and watched by."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from minitron.data.masks import PackedText
from minitron.data.sequences import pack_documents
from minitron.data.sources import TextSource, apportion, shuffled_shares
from minitron.data.tokenizer import Tokenizer
from minitron.distributed import Ranks
from minitron.errors import DataError
from minitron.recipe.distill import TrainSection
from minitron.recipe.source import Source

logger = logging.getLogger(__name__)

MOST_SHARE = 0.1  # of the documents, where a source has few
BUFFER_DOCUMENTS = 1024  # of the shuffle that validation documents are drawn from


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitText:
    """The two sides of a training's text.

    Attributes:
        sources: What is trained on, validation documents left out.
        validation: What it is watched by, packed; up to as many sequences as were asked for.
    """

    sources: tuple[TextSource, ...]
    validation: PackedText

    @property
    def shares(self) -> list[float]:
        """Share of each source's documents that is held out for validation."""
        return [source.validation for source in self.sources]


def text_sources(sources: Sequence[Source], *, held_out: bool = False) -> list[TextSource]:
    """A recipe's sources as the data package reads them, with one side of those that are split.

    Args:
        sources: The recipe's.
        held_out: Read the held-out part of each, for evaluation; else what is trained and calibrated on. A source
            that is not split is read whole on both sides.
    """
    side: Literal["held_out", "train"] = "held_out" if held_out else "train"
    return [TextSource(**source.model_dump(), part=side if source.held_out else "all") for source in sources]


def split_text(section: TrainSection, tokenizer: Tokenizer, *, seed: int, ranks: Ranks) -> SplitText:
    """Holds documents of each source out of a training, and packs them in the blend's proportions.

    The hash of a document's text decides, as it does for what evaluation reads, so that no document is on two sides,
    wherever it is stored. A source with so few documents that even a tenth of them fills no sequence is not split: its
    validation text is text that is trained on, and a warning says so. The first process reads, the others are told.
    """
    split = ranks.broadcast(_split(section, tokenizer, seed=seed) if ranks.is_main else None)
    assert split is not None
    return split


def _split(section: TrainSection, tokenizer: Tokenizer, *, seed: int) -> SplitText:
    sources = text_sources(section.data)
    counts = apportion([source.weight for source in sources], max(section.validation.sequences, len(sources)))
    trained: list[TextSource] = []
    packed: list[PackedText] = []
    for source, count in zip(sources, counts, strict=True):
        source, found = _split_source(source, section, tokenizer, count=max(1, count), seed=seed)
        trained.append(source)
        packed += found
    return SplitText(sources=tuple(trained), validation=PackedText.joined(packed))


def _split_source(
    source: TextSource, section: TrainSection, tokenizer: Tokenizer, *, count: int, seed: int
) -> tuple[TextSource, list[PackedText]]:
    """The source without its validation documents, and those packed."""
    for share in (section.validation.share, max(section.validation.share, MOST_SHARE)):
        if share >= 1 - source.held_out:
            continue
        train = replace(source, validation=share, part="train")
        try:
            packed = _pack(replace(train, part="validation"), section, tokenizer, count=count, seed=seed)
        except DataError:  # too few documents are on that side, or without an answer
            continue
        if any(train.part_of(document) == "train" for document in train.read()):
            return train, packed
    logger.warning(
        "%s has too few documents to hold some out of the training: it is watched by text that it is trained on",
        source.path,
    )
    return source, _pack(source, section, tokenizer, count=count, seed=seed)


def _pack(
    source: TextSource, section: TrainSection, tokenizer: Tokenizer, *, count: int, seed: int
) -> list[PackedText]:
    drawn = replace(source, buffer_documents=BUFFER_DOCUMENTS)
    (share,) = shuffled_shares([drawn], count, seed=seed)
    documents = next(share.rounds)  # one round: no sequence is measured twice
    return list(pack_documents(documents, tokenizer, seq_len=section.seq_len, num_sequences=count, chat=share.chat))
