"""Packed text: documents joined end to end and cut into sequences of one length, and blends of several sources."""

# N sequences, T tokens a sequence, n sequences of a chunk

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from minitron.data.conversations import Document
from minitron.data.encoding import DEFAULT_CHAT, ChatSettings, Encoded, encode_documents
from minitron.data.masks import PackedText, TokenSequences
from minitron.data.sources import Share, TextSource, shuffled_shares
from minitron.data.tokenizer import Tokenizer
from minitron.errors import DataError

# Tokenized at once: enough for the tokenizer's threads, little beside the shuffle buffer.
BATCH_DOCUMENTS = 1024
BATCH_CHARS = 2**22
CHARS_PER_TOKEN = 4  # of English text; where there are fewer, one more batch is read


def blend_sources(
    sources: Sequence[TextSource], tokenizer: Tokenizer, *, seq_len: int, num_sequences: int, seed: int
) -> TokenSequences:
    """Token ids [N, T] of a blend, all of which count: `blend_text` without a loss mask."""
    whole = [source.counting_all() for source in sources]
    return blend_text(whole, tokenizer, seq_len=seq_len, num_sequences=num_sequences, seed=seed).ids_NT


def blend_text(
    sources: Sequence[TextSource], tokenizer: Tokenizer, *, seq_len: int, num_sequences: int, seed: int
) -> PackedText:
    """Sequences drawn from several sources in proportion to their weights, in an order fixed by the seed.

    A source with too little text is read again from its start until its share is full, in a new document order. The
    sequences are held in memory; `packing.write_sequence_file` puts the same ones on disk.
    """
    chunks = [
        chunk
        for share in shuffled_shares(sources, num_sequences, seed=seed)
        for chunk in fill_sequences(share, tokenizer, seq_len=seq_len)
    ]
    return PackedText.joined(chunks).taken(blend_order(num_sequences, seed=seed))


def blend_order(num_sequences: int, *, seed: int) -> npt.NDArray[np.int64]:
    """[N] permutation of a blend: the sequence at each position, counted through one source after the other."""
    return np.random.default_rng(seed).permutation(num_sequences)


def fill_sequences(share: Share, tokenizer: Tokenizer, *, seq_len: int) -> Iterator[PackedText]:
    """Yields chunks of a source's share of sequences, from as many epochs of the documents as that takes.

    Raises:
        DataError: The documents of an epoch do not fill a single sequence.
    """
    missing = share.num_sequences
    while missing > 0:
        documents = next(share.rounds)
        for chunk in pack_documents(documents, tokenizer, seq_len=seq_len, num_sequences=missing, chat=share.chat):
            missing -= len(chunk)
            yield chunk


def tokenize_batch(
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    *,
    max_chars: int = BATCH_CHARS,
    chat: ChatSettings = DEFAULT_CHAT,
) -> list[Encoded]:
    """Tokenizes the next batch of documents, each closed by the end-of-text token; empty at the end."""
    batch: list[Document] = []
    chars = 0
    while len(batch) < BATCH_DOCUMENTS and chars < max_chars and (document := next(documents, None)) is not None:
        batch.append(document)
        chars += len(document)
    return encode_documents(batch, tokenizer, chat)


def pack_documents(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    num_sequences: int,
    chat: ChatSettings = DEFAULT_CHAT,
) -> Iterator[PackedText]:
    """Joins documents end to end, each closed by the end-of-text token, and yields chunks of full sequences.

    Documents are read until `num_sequences` sequences are full; fewer come when the documents run out. Tokens that do
    not fill a sequence are dropped, so there is no padding, which distorts calibration statistics.

    Raises:
        DataError: The documents do not fill a single sequence.
    """
    stream, missing = iter(documents), num_sequences
    tail = _Stream()
    while missing > 0:
        needed_chars = CHARS_PER_TOKEN * (missing * seq_len - len(tail))
        found = tokenize_batch(stream, tokenizer, max_chars=min(BATCH_CHARS, needed_chars), chat=chat)
        if not found:
            break
        tail.add(found)
        full = min(len(tail) // seq_len, missing)
        if full > 0:
            yield tail.cut(full, seq_len)
            missing -= full
    if missing == num_sequences:
        raise DataError(f"the text must fill one sequence of {seq_len} tokens, it has {len(tail)} tokens")


class _Stream:
    """Tokens of documents joined end to end, and which of them count; no mask where all do."""

    def __init__(self) -> None:
        self._ids = np.empty(0, dtype=np.int32)
        self._counted: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, documents: Sequence[Encoded]) -> None:
        """Puts documents behind what there is."""
        if self._counted is None and any(document.counted_n is not None for document in documents):
            self._counted = np.ones(len(self._ids), dtype=bool)
        if self._counted is not None:
            masks = (
                np.ones(len(document.ids_n), dtype=bool) if document.counted_n is None else document.counted_n
                for document in documents
            )
            self._counted = np.concatenate([self._counted, *masks])
        self._ids = np.concatenate([self._ids, *(np.asarray(document.ids_n, dtype=np.int32) for document in documents)])

    def cut(self, sequences: int, seq_len: int) -> PackedText:
        """Takes sequences from the front."""
        size, shape = sequences * seq_len, (sequences, seq_len)
        counted = None if self._counted is None else self._counted[:size].reshape(shape)
        found = PackedText(ids_NT=self._ids[:size].reshape(shape), counted_NT=counted)
        self._ids = self._ids[size:]
        self._counted = None if self._counted is None else self._counted[size:]
        return found
