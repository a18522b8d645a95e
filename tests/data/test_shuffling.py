from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from minitron.data.shuffling import shuffled_rounds

DOCUMENTS = [f"document {i}" for i in range(57)]


class CountedReading:
    """Reads documents, and knows the most that were read and not given on, in documents and in characters."""

    def __init__(self, documents: list[str]) -> None:
        self.documents = documents
        self.starts = 0
        self.held: Counter[str] = Counter()
        self.most_documents = self.most_chars = 0

    def read(self) -> Iterator[str]:
        self.starts += 1
        for document in self.documents:
            self.held[document] += 1
            self.most_documents = max(self.most_documents, self.held.total())
            self.most_chars = max(self.most_chars, sum(len(text) * count for text, count in self.held.items()))
            yield document

    def shuffle(self, *, max_documents: int, max_chars: int, rounds: int = 1, seed: int = 0) -> list[list[str]]:
        shuffled = shuffled_rounds(
            self.read, np.random.default_rng(seed), max_documents=max_documents, max_chars=max_chars
        )
        return [[self._give_on(document) for document in documents] for documents in islice(shuffled, rounds)]

    def _give_on(self, document: str) -> str:
        self.held[document] -= 1
        return document


@pytest.mark.parametrize(("max_documents", "max_chars"), [(57, 10**6), (10**6, sum(map(len, DOCUMENTS)))])
def test_what_fits_is_permuted_whole_and_read_once(max_documents: int, max_chars: int) -> None:
    reading, rng = CountedReading(DOCUMENTS), np.random.default_rng(4)
    rounds = reading.shuffle(max_documents=max_documents, max_chars=max_chars, rounds=3, seed=4)
    assert rounds == [[DOCUMENTS[i] for i in rng.permutation(57)] for _ in range(3)]
    assert reading.starts == 1


@pytest.mark.parametrize(("max_documents", "max_chars"), [(56, 10**6), (10**6, sum(map(len, DOCUMENTS)) - 1), (5, 33)])
def test_more_than_fits_gives_every_document_once_a_round_in_an_order_of_its_own(
    max_documents: int, max_chars: int
) -> None:
    def shuffle(seed: int) -> list[list[str]]:
        reading = CountedReading(DOCUMENTS)
        return reading.shuffle(max_documents=max_documents, max_chars=max_chars, rounds=2, seed=seed)

    first, second = shuffle(1)
    assert sorted(first) == sorted(second) == sorted(DOCUMENTS)
    assert len({tuple(order) for order in (DOCUMENTS, first, second, shuffle(2)[0])}) == 4
    assert shuffle(1) == [first, second]


def test_no_more_documents_are_held_than_the_buffer_takes() -> None:
    reading = CountedReading([f"{i}" for i in range(1000)])
    reading.shuffle(max_documents=7, max_chars=10**6, rounds=3)
    assert reading.most_documents == 7 + 1  # and the one that sends another out


def test_no_more_characters_are_held_than_the_buffer_takes() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 500)
    reading = CountedReading(["x" * length for length in lengths])
    reading.shuffle(max_documents=10**6, max_chars=100, rounds=2)
    assert 100 - 20 < reading.most_chars <= 100 + 19


def test_a_document_beyond_the_buffer_is_held_alone() -> None:
    reading = CountedReading(["a", "b", "c" * 50, "d", "e"])
    (order,) = reading.shuffle(max_documents=9, max_chars=10)
    assert sorted(order) == sorted(reading.documents)
    assert reading.most_documents == 3


@pytest.mark.parametrize(("max_documents", "max_chars"), [(300, 10**6), (10**6, 1200)])
def test_a_document_can_move_as_far_as_the_buffer_reaches(max_documents: int, max_chars: int) -> None:
    numbers = [f"{i:04}" for i in range(3000)]
    (order,) = CountedReading(numbers).shuffle(max_documents=max_documents, max_chars=max_chars)
    moved = [abs(place - int(number)) for place, number in enumerate(order)]
    assert np.mean(moved) > 150
