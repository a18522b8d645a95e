"""Shuffles documents through a bounded buffer, in an order fixed by a seed."""

from collections.abc import Callable, Iterator

import numpy as np

from minitron.data.conversations import Document


def shuffled_rounds(
    read: Callable[[], Iterator[Document]], rng: np.random.Generator, *, max_documents: int, max_chars: int
) -> Iterator[Iterator[Document]]:
    """Yields epochs without end: iterators over all documents, each in a new order.

    Documents that fit into the buffer together are read once and permuted whole. More are shuffled through it: each
    document that comes in sends one out that is drawn among those held, and every round reads them anew; one that is
    read early then comes early, within the buffer's reach.

    Args:
        read: Gives the documents in their stored order.
        rng: Draws the orders, of which each round has its own.
        max_documents: How many the buffer holds.
        max_chars: How many characters they may have in all; a longer document is held alone.
    """
    stream = read()
    buffer = _Buffer(max_documents, max_chars)
    following = buffer.fill(stream)
    if following is None:
        while True:
            yield iter([buffer.documents[i] for i in rng.permutation(len(buffer.documents))])
    yield _drawn(buffer, following, stream, rng)
    while True:
        buffer, stream = _Buffer(max_documents, max_chars), read()
        yield _drawn(buffer, buffer.fill(stream), stream, rng)


class _Buffer:
    def __init__(self, max_documents: int, max_chars: int) -> None:
        self.documents: list[Document] = []
        self._chars = 0
        self._max_documents, self._max_chars = max_documents, max_chars

    def fill(self, stream: Iterator[Document]) -> Document | None:
        for document in stream:
            if not self.has_room(document):
                return document
            self.add(document)
        return None

    def has_room(self, document: Document) -> bool:
        if not self.documents:
            return True
        return len(self.documents) < self._max_documents and self._chars + len(document) <= self._max_chars

    def add(self, document: Document) -> None:
        self.documents.append(document)
        self._chars += len(document)

    def draw(self, rng: np.random.Generator) -> Document:
        i = int(rng.integers(len(self.documents)))
        self.documents[i], self.documents[-1] = self.documents[-1], self.documents[i]
        document = self.documents.pop()
        self._chars -= len(document)
        return document


def _drawn(
    buffer: _Buffer, following: Document | None, stream: Iterator[Document], rng: np.random.Generator
) -> Iterator[Document]:
    while following is not None:
        while not buffer.has_room(following):
            yield buffer.draw(rng)
        buffer.add(following)
        following = next(stream, None)
    while buffer.documents:
        yield buffer.draw(rng)
