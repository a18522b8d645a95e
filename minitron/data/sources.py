"""Sources of text: which documents are read, how they are cut, and the share of each source in a blend."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from minitron.data.conversations import Document
from minitron.data.documents import read_documents, read_kind
from minitron.data.encoding import ChatSettings
from minitron.data.formats.encoding import open_text
from minitron.data.records import LossTokens, RecordKind
from minitron.data.shuffling import shuffled_rounds
from minitron.data.split import Part, part_of
from minitron.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """One source of text and its share of a blend.

    Attributes:
        path: What `read_documents` reads.
        weight: Share, relative to the other sources'.
        field: Field that holds the text, or the messages where it is not `text`.
        split: Split of a dataset.
        kind: What the records are; found from the fields of the first one when None.
        loss: What a loss counts; of conversations the answers, of text all tokens when None.
        chat_template: File of a chat template; the tokenizer's own when None.
        excerpt_chars: Cut documents into excerpts of so many characters, so that a small sample sees many of them;
            None takes documents whole.
        held_out: Fraction of the documents that is held out for evaluation.
        validation: Fraction that is held out of training beside it, to watch the training by.
        part: Which side of that split is read.
        buffer_documents: Size of the shuffle buffer in documents or excerpts; a source that fits it is shuffled fully.
        buffer_chars: Size of the shuffle buffer in characters.
    """

    path: str
    weight: float = 1.0
    field: str = "text"
    split: str = "train"
    kind: RecordKind | None = None
    loss: LossTokens = None
    chat_template: str | None = None
    excerpt_chars: int | None = None
    held_out: float = 0.0
    validation: float = 0.0
    part: Part = "all"
    buffer_documents: int = 65_536
    buffer_chars: int = 2**28

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise DataError(f"held_out must be a share from 0 to below 1, got {self.held_out}")
        if not 0 <= self.validation < 1 - self.held_out:
            raise DataError(f"validation must be a share that leaves text to train on, got {self.validation}")
        if self.part == "held_out" and self.held_out == 0:
            raise DataError(f"a held-out part needs held_out above 0, {self.path} has none")
        if self.part == "validation" and self.validation == 0:
            raise DataError(f"a validation part needs validation above 0, {self.path} has none")

    def counting_all(self) -> "TextSource":
        """The same source, all of whose tokens count."""
        return replace(self, loss="all")

    def part_of(self, document: Document) -> Part:
        """The side of its split that a document is on."""
        return part_of(document, held_out=self.held_out, validation=self.validation)

    def read(self) -> Iterator[Document]:
        """Its documents in their stored order."""
        return read_documents(self.path, field=self.field, split=self.split, kind=self.kind)

    @property
    def is_masked(self) -> bool:
        """Whether tokens of it may not count; where nothing is stated the first record is read."""
        if self.loss is not None:
            return self.loss == "answers"
        kind = self.kind or read_kind(self.path, field=self.field, split=self.split)
        return kind != "text"

    @property
    def chat(self) -> ChatSettings:
        """How its conversations become tokens.

        Raises:
            DataError: The file of the template is missing or not UTF-8.
        """
        if self.chat_template is None:
            return ChatSettings(loss=self.loss)
        with open_text(Path(self.chat_template), newline="") as file:
            return ChatSettings(loss=self.loss, template=file.read())


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A source's share of a blend.

    Attributes:
        path: The source.
        rounds: Its documents, epoch after epoch in a new order.
        num_sequences: Its share of the sequences, or of the samples.
        chat: How its conversations become tokens.
    """

    path: str
    rounds: Iterator[Iterator[Document]]
    num_sequences: int
    chat: ChatSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """A blend of sources, packed into sequences.

    Attributes:
        sources: Where the text is, with each source's share.
        seq_len: Tokens a sequence.
        num_sequences: How many.
        seed: Fixes the documents and the order of the sequences.
    """

    sources: Sequence[TextSource]
    seq_len: int
    num_sequences: int
    seed: int


def shuffled_shares(sources: Sequence[TextSource], total: int, *, seed: int) -> Iterator[Share]:
    """The share of each source that has one of the total.

    Nothing is read before an epoch is asked for. A source that is read more than once is warned about.
    """
    shares = apportion([source.weight for source in sources], total)
    for source, share in zip(sources, shares, strict=True):
        if share > 0:
            rounds = _rounds(source, seed=source_seed(source, seed))
            yield Share(path=source.path, rounds=rounds, num_sequences=share, chat=source.chat)


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to a total, in proportion to weights (largest remainder method).

    >>> apportion([0.5, 0.3, 0.2], 4)
    [2, 1, 1]
    """
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda source: shares[source] - exact[source])
    for source in by_remainder[: total - sum(shares)]:
        shares[source] += 1
    return shares


def source_seed(source: TextSource, seed: int) -> int:
    """Seed of the shuffles of one source."""
    digest = hashlib.sha256(f"{seed}:{source.field}:{source.split}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _rounds(source: TextSource, *, seed: int) -> Iterator[Iterator[Document]]:
    rounds = shuffled_rounds(
        partial(_read_excerpts, source),
        np.random.default_rng(seed),
        max_documents=source.buffer_documents,
        max_chars=source.buffer_chars,
    )
    yield next(rounds)
    logger.warning("%s has too little text for its share of the blend and is read again from its start", source.path)
    yield from rounds


def _read_excerpts(source: TextSource) -> Iterator[Document]:
    empty = answerless = True
    for document in source.read():
        if source.part != "all" and source.part_of(document) != source.part:
            continue
        empty = False
        answerless = answerless and source.loss != "all" and not isinstance(document, str) and not document.answers
        yield from _excerpts(document, source)
    if empty:
        raise DataError(
            f"a text source must hold text, {source.path} has none in its {source.part} part with "
            f"held_out={source.held_out}"
        )
    if answerless:
        raise DataError(f"a loss on answers needs answers, {source.path} has none; set loss: all, or read other text")


def _excerpts(document: Document, source: TextSource) -> Iterator[Document]:
    if source.excerpt_chars is None:
        yield document
    elif isinstance(document, str):
        for start in range(0, len(document), source.excerpt_chars):
            yield document[start : start + source.excerpt_chars]
    else:
        raise DataError(f"conversations are not cut into excerpts, {source.path} holds some; leave excerpt_chars out")
