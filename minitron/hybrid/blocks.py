"""Packed token blocks: documents joined end to end and cut to one length, and blends of several sources."""

# N blocks, T tokens a block

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minitron.hybrid.text import read_documents

logger = logging.getLogger(__name__)

TokenBlocks = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """One source of text and its share of a blend.

    Attributes:
        path: What `read_documents` reads.
        weight: Share, relative to the other sources'.
        field: Column that holds the text.
        split: Split of a named dataset.
        excerpt_chars: Cut documents into excerpts of so many characters, so that a small sample sees many of them;
            None takes documents whole.
    """

    path: str
    weight: float = 1.0
    field: str = "text"
    split: str = "train"
    excerpt_chars: int | None = None


def pack_documents(documents: Iterable[str], tokenizer: Any, *, seq_len: int, num_blocks: int) -> TokenBlocks:
    """Token ids [N, T] of documents joined end to end, each closed by the end-of-text token.

    Documents are read until `num_blocks` blocks are full; fewer come back when the documents run out. The unfilled
    rest is dropped, so no block holds padding, which distorts calibration statistics.

    Raises:
        ValueError: The documents do not fill a single block.
    """
    needed = seq_len * num_blocks
    ids: list[int] = []
    for document in documents:
        ids.extend(tokenizer(document, verbose=False)["input_ids"])  # long documents are cut below
        ids.append(tokenizer.eos_token_id)
        if len(ids) >= needed:
            break
    full = min(len(ids) // seq_len, num_blocks)
    if full == 0:
        raise ValueError(f"the text must fill one block of {seq_len} tokens, it has {len(ids)} tokens")
    return np.asarray(ids[: full * seq_len], dtype=np.int32).reshape(full, seq_len)


def blend_sources(
    sources: Sequence[TextSource], tokenizer: Any, *, seq_len: int, num_blocks: int, seed: int
) -> TokenBlocks:
    """Token ids [N, T] drawn from several sources in proportion to their weights, in an order fixed by the seed.

    A source with too little text is read again from its start until its share is full, in a new document order.
    """
    parts = [
        part
        for rounds, share in shuffled_shares(sources, num_blocks, seed=seed)
        for part in _fill(rounds, tokenizer, seq_len=seq_len, num_blocks=share)
    ]
    blocks_NT = np.concatenate(parts)
    return blocks_NT[np.random.default_rng(seed).permutation(len(blocks_NT))]


def shuffled_shares(
    sources: Sequence[TextSource], total: int, *, seed: int
) -> Iterator[tuple[Iterator[list[str]], int]]:
    """For each source with a share of the total: its documents, round after round in a new order, and the share.

    A source that has to be gone through more than once is warned of.
    """
    shares = apportion([source.weight for source in sources], total)
    for source, share in zip(sources, shares, strict=True):
        if share > 0:
            yield _rounds(source, seed=_source_seed(source, seed)), share


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole shares of a total in proportion to weights, by largest remainders.

    >>> apportion([0.5, 0.3, 0.2], 4)
    [2, 1, 1]
    """
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda source: shares[source] - exact[source])
    for source in by_remainder[: total - sum(shares)]:
        shares[source] += 1
    return shares


def _rounds(source: TextSource, *, seed: int) -> Iterator[list[str]]:
    documents = list(_read_excerpts(source))
    if not documents:
        raise ValueError(f"a text source must hold text, every document of {source.path} is empty")
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        if number == 1:
            logger.warning("%s has too little text for its share and is read again from its start", source.path)
        yield [documents[i] for i in rng.permutation(len(documents))]


def _fill(rounds: Iterator[list[str]], tokenizer: Any, *, seq_len: int, num_blocks: int) -> Iterator[TokenBlocks]:
    missing = num_blocks
    while missing > 0:
        part = pack_documents(next(rounds), tokenizer, seq_len=seq_len, num_blocks=missing)
        yield part
        missing -= len(part)


def _read_excerpts(source: TextSource) -> Iterator[str]:
    for document in read_documents(source.path, field=source.field, split=source.split):
        step = source.excerpt_chars or len(document) or 1
        yield from (document[start : start + step] for start in range(0, len(document), step))


def _source_seed(source: TextSource, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}:{source.field}:{source.split}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
