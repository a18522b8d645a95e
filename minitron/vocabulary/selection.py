"""Chooses the tokens that are kept: all that is needed, then the most frequent ones with what each of those needs."""

# V ids of the model's embeddings

from collections.abc import Collection, Iterable, Iterator
from itertools import islice

import numpy as np

from minitron.errors import MinitronError
from minitron.models.axes import Indices
from minitron.vocabulary.closure import Needs, needs_of
from minitron.vocabulary.settings import VocabularySettings
from minitron.vocabulary.tokenizer_file import TokenizerFile


def required_ids(file: TokenizerFile, vocab_size: int, named: Iterable[int] = ()) -> set[int]:
    """Ids that are kept whatever a text holds.

    Args:
        file: The tokenizer.
        vocab_size: Ids below it have an embedding; a token without one is dropped.
        named: Further ids, as those that configurations name.
    """
    needs = needs_of(file, vocab_size)
    wanted = file.base_ids | set(file.added.values()) | set(named)
    return {one for number in wanted for one in needs(number) if 0 <= one < vocab_size}


def select_tokens(
    counts_V: Indices, file: TokenizerFile, required: Collection[int], settings: VocabularySettings
) -> Indices:
    """Ids of the tokens that are kept, in their new order: as before, and rows that no token has, if any, last.

    Args:
        counts_V: How often each id occurs in the text.
        file: The tokenizer.
        required: Ids that are kept whatever the text holds.
        settings: How many.

    Raises:
        MinitronError: More are asked for than there are, or less than have to be kept.
    """
    vocab_size = len(counts_V)
    require_size(settings, required, vocab_size)
    needs, ranked, kept = needs_of(file, vocab_size), _ranked(counts_V, file), set(required)
    for number in _wanted(ranked, counts_V, settings):
        kept |= needs(number)
    multiple = settings.multiple_of
    size = settings.size or min(-(-len(kept) // multiple) * multiple, vocab_size)
    _fill(kept, ranked, needs, size)
    tokens = set(file.all_ids.values())
    if len(kept) < size:
        rows = (number for number in range(vocab_size) if number not in tokens and number not in kept)
        kept |= set(islice(rows, size - len(kept)))
    order = sorted(kept, key=lambda number: (number not in tokens, number))
    return np.asarray(order, dtype=np.int64)


def require_size(settings: VocabularySettings, required: Collection[int], vocab_size: int) -> None:
    """Refuses a size that a vocabulary cannot be cut to.

    Raises:
        MinitronError: It is above the model's, or below what has to be kept.
    """
    if settings.size is None:
        return
    if settings.size > vocab_size:
        raise MinitronError(f"vocabulary.size must be at most the model's {vocab_size}, got {settings.size}")
    if settings.size < len(required):
        raise MinitronError(
            f"vocabulary.size must be at least the {len(required)} tokens that are kept whatever the text is (bytes, "
            f"special and added tokens), got {settings.size}"
        )


def _ranked(counts_V: Indices, file: TokenizerFile) -> list[int]:
    """Ids of tokens that have an embedding, the most frequent first; of equal ones those that were learned earlier."""
    ids = np.asarray(sorted({number for number in file.all_ids.values() if number < len(counts_V)}), dtype=np.int64)
    ranked: list[int] = ids[np.argsort(-counts_V[ids], kind="stable")].tolist()
    return ranked


def _wanted(ranked: list[int], counts_V: Indices, settings: VocabularySettings) -> Iterator[int]:
    """The tokens that a coverage or a least count asks for."""
    if settings.min_count is not None:
        yield from (number for number in ranked if counts_V[number] >= settings.min_count)
    elif settings.coverage is not None:
        left = settings.coverage * int(counts_V.sum())
        for number in ranked:
            if left <= 0 or not counts_V[number]:
                return
            left -= int(counts_V[number])
            yield number


def _fill(kept: set[int], ranked: list[int], needs: Needs, size: int) -> None:
    """Adds the next most frequent tokens, in place, each with what it needs, until there are `size` of them."""
    added = True
    while added and len(kept) < size:
        added = False
        for number in ranked:
            if len(kept) == size:
                return
            new = frozenset() if number in kept else needs(number) - kept
            if new and len(kept) + len(new) <= size:
                kept |= new
                added = True
