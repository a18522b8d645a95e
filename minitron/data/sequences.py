"""Packed text: documents joined end to end and cut into sequences of one length, and blends of several sources."""

# N sequences, T tokens a sequence, n sequences of a chunk

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from minitron.data.sources import TextSource, shuffled_shares
from minitron.data.special_tokens import encode_documents
from minitron.data.tokenizer import Tokenizer
from minitron.errors import DataError

TokenSequences = npt.NDArray[np.int32]

# Tokenized at once: enough for the tokenizer's threads, little beside the shuffle buffer.
BATCH_DOCUMENTS = 1024
BATCH_CHARS = 2**22
CHARS_PER_TOKEN = 4  # of English text; where there are fewer, one more batch is read


def blend_sources(
    sources: Sequence[TextSource], tokenizer: Tokenizer, *, seq_len: int, num_sequences: int, seed: int
) -> TokenSequences:
    """Token ids [N, T] drawn from several sources in proportion to their weights, in an order fixed by the seed.

    A source with too little text is read again from its start until its share is full, in a new document order. The
    sequences are held in memory; `packing.write_sequence_file` puts the same ones on disk.
    """
    chunks = [
        chunk_nT
        for rounds, share in shuffled_shares(sources, num_sequences, seed=seed)
        for chunk_nT in fill_sequences(rounds, tokenizer, seq_len=seq_len, num_sequences=share)
    ]
    return np.concatenate(chunks)[blend_order(num_sequences, seed=seed)]


def blend_order(num_sequences: int, *, seed: int) -> npt.NDArray[np.int64]:
    """[N] permutation of a blend: the sequence at each position, counted through one source after the other."""
    return np.random.default_rng(seed).permutation(num_sequences)


def fill_sequences(
    rounds: Iterator[Iterable[str]], tokenizer: Tokenizer, *, seq_len: int, num_sequences: int
) -> Iterator[TokenSequences]:
    """Yields chunks [n, T] of `num_sequences` sequences in all, from as many epochs of the documents as that takes.

    Raises:
        DataError: The documents of an epoch do not fill a single sequence.
    """
    missing = num_sequences
    while missing > 0:
        for chunk_nT in pack_documents(next(rounds), tokenizer, seq_len=seq_len, num_sequences=missing):
            missing -= len(chunk_nT)
            yield chunk_nT


def tokenize_batch(documents: Iterator[str], tokenizer: Tokenizer, *, max_chars: int = BATCH_CHARS) -> list[list[int]]:
    """Tokenizes the next batch of documents, each closed by the end-of-text token; empty at the end.

    Fast tokenizers process the documents of a batch in parallel.
    """
    batch: list[str] = []
    chars = 0
    while len(batch) < BATCH_DOCUMENTS and chars < max_chars and (document := next(documents, None)) is not None:
        batch.append(document)
        chars += len(document)
    if not batch:
        return []
    return encode_documents(batch, tokenizer)


def pack_documents(
    documents: Iterable[str], tokenizer: Tokenizer, *, seq_len: int, num_sequences: int
) -> Iterator[TokenSequences]:
    """Joins documents end to end, each closed by the end-of-text token, and yields chunks [n, T] of full sequences.

    Documents are read until `num_sequences` sequences are full; fewer come when the documents run out. Tokens that do
    not fill a sequence are dropped, so there is no padding, which distorts calibration statistics.

    Raises:
        DataError: The documents do not fill a single sequence.
    """
    stream, missing = iter(documents), num_sequences
    tail = np.empty(0, dtype=np.int32)
    while missing > 0:
        needed_chars = CHARS_PER_TOKEN * (missing * seq_len - len(tail))
        found = tokenize_batch(stream, tokenizer, max_chars=min(BATCH_CHARS, needed_chars))
        if not found:
            break
        tail = np.concatenate([tail, *(np.asarray(ids, dtype=np.int32) for ids in found)])
        full = min(len(tail) // seq_len, missing)
        if full > 0:
            yield tail[: full * seq_len].reshape(full, seq_len)
            tail, missing = tail[full * seq_len :], missing - full
    if missing == num_sequences:
        raise DataError(f"the text must fill one sequence of {seq_len} tokens, it has {len(tail)} tokens")
