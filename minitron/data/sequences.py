"""Packed token blocks: documents joined end to end and cut to one length, and blends of several sources."""

# N blocks, T tokens a block, n blocks of a piece

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from minitron.data.sources import TextSource, shuffled_shares
from minitron.errors import DataError

TokenSequences = npt.NDArray[np.int32]

# What is given to the tokenizer at once: enough for its threads, little beside the shuffle buffer.
BATCH_DOCUMENTS = 1024
BATCH_CHARS = 2**22
CHARS_PER_TOKEN = 4  # of English text; where it is less, one more batch is taken


def pack_documents(documents: Iterable[str], tokenizer: Any, *, seq_len: int, num_sequences: int) -> TokenSequences:
    """Token ids [N, T] of documents joined end to end, each closed by the end-of-text token.

    Documents are read until `num_sequences` blocks are full; fewer come back when the documents run out. The unfilled
    rest is dropped, so no block holds padding, which distorts calibration statistics.

    Raises:
        DataError: The documents do not fill a single block.
    """
    return np.concatenate(list(_pack(documents, tokenizer, seq_len=seq_len, num_sequences=num_sequences)))


def blend_sources(
    sources: Sequence[TextSource], tokenizer: Any, *, seq_len: int, num_sequences: int, seed: int
) -> TokenSequences:
    """Token ids [N, T] drawn from several sources in proportion to their weights, in an order fixed by the seed.

    A source with too little text is read again from its start until its share is full, in a new document order. The
    blocks are held in memory; `packing.write_sequence_file` puts the same ones on disk.
    """
    pieces = [
        piece_nT
        for rounds, share in shuffled_shares(sources, num_sequences, seed=seed)
        for piece_nT in fill_sequences(rounds, tokenizer, seq_len=seq_len, num_sequences=share)
    ]
    return np.concatenate(pieces)[blend_order(num_sequences, seed=seed)]


def blend_order(num_sequences: int, *, seed: int) -> npt.NDArray[np.int64]:
    """[N] which block, counted through one source after the other, comes at each place of a blend."""
    return np.random.default_rng(seed).permutation(num_sequences)


def fill_sequences(
    rounds: Iterator[Iterable[str]], tokenizer: Any, *, seq_len: int, num_sequences: int
) -> Iterator[TokenSequences]:
    """Yields pieces [n, T] that make up `num_sequences` blocks, of as many rounds of documents as that takes.

    Raises:
        DataError: A round's documents do not fill a single block.
    """
    missing = num_sequences
    while missing > 0:
        for piece_nT in _pack(next(rounds), tokenizer, seq_len=seq_len, num_sequences=missing):
            missing -= len(piece_nT)
            yield piece_nT


def tokenize_batch(documents: Iterator[str], tokenizer: Any, *, max_chars: int = BATCH_CHARS) -> list[list[int]]:
    """The ids of each of the next documents, closed by the end-of-text token; as many as make a batch, or are left.

    Fast tokenizers share the documents of a batch out among their threads.
    """
    batch: list[str] = []
    chars = 0
    while len(batch) < BATCH_DOCUMENTS and chars < max_chars and (document := next(documents, None)) is not None:
        batch.append(document)
        chars += len(document)
    if not batch:
        return []
    # Documents longer than the model's context are no fault here, since they are cut after.
    encoded = tokenizer(batch, verbose=False, return_attention_mask=False)
    return [[*ids, tokenizer.eos_token_id] for ids in encoded["input_ids"]]


def _pack(documents: Iterable[str], tokenizer: Any, *, seq_len: int, num_sequences: int) -> Iterator[TokenSequences]:
    stream, missing = iter(documents), num_sequences
    rest = np.empty(0, dtype=np.int32)
    while missing > 0:
        needed_chars = CHARS_PER_TOKEN * (missing * seq_len - len(rest))
        found = tokenize_batch(stream, tokenizer, max_chars=min(BATCH_CHARS, needed_chars))
        if not found:
            break
        rest = np.concatenate([rest, *(np.asarray(ids, dtype=np.int32) for ids in found)])
        full = min(len(rest) // seq_len, missing)
        if full > 0:
            yield rest[: full * seq_len].reshape(full, seq_len)
            rest, missing = rest[full * seq_len :], missing - full
    if missing == num_sequences:
        raise DataError(f"the text must fill one block of {seq_len} tokens, it has {len(rest)} tokens")
