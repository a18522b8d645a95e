"""Calibration samples: packed sequences, or single documents padded to one length.

Of conversations the whole rendering counts: activations are those of all that the model reads, answers or not.
"""

# N samples, T tokens, B samples of a batch

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
import torch

from minitron.data.conversations import Document
from minitron.data.encoding import DEFAULT_CHAT, ChatSettings
from minitron.data.masks import TokenSequences
from minitron.data.sequences import blend_sources, tokenize_batch
from minitron.data.sources import TextSource, shuffled_shares
from minitron.data.tokenizer import Tokenizer
from minitron.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A batch of calibration samples, with their padding.

    Attributes:
        token_ids: [N, T].
        lengths: [N] tokens of each sample before its padding, which is on the right, where no token of a causal model
            sees it; None without padding.
    """

    token_ids: TokenSequences
    lengths: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.token_ids.size if self.lengths is None else self.lengths.sum())

    def share(self, index: int, count: int) -> "Samples":
        """The share of one rank: every `count`-th sample from `index` on."""
        lengths = None if self.lengths is None else self.lengths[index::count]
        return Samples(token_ids=self.token_ids[index::count], lengths=lengths)

    def first(self, count: int) -> "Samples":
        """The first `count` samples."""
        lengths = None if self.lengths is None else self.lengths[:count]
        return Samples(token_ids=self.token_ids[:count], lengths=lengths)

    def batches(self, batch_size: int) -> list["Samples"]:
        """The samples in order, `batch_size` at a time."""
        return [
            Samples(
                token_ids=self.token_ids[start : start + batch_size],
                lengths=None if self.lengths is None else self.lengths[start : start + batch_size],
            )
            for start in range(0, len(self), batch_size)
        ]

    def ids(self, device: torch.device) -> torch.Tensor:
        """[N, T] ids as a tensor."""
        return torch.from_numpy(self.token_ids).long().to(device)

    def mask(self, device: torch.device) -> torch.Tensor | None:
        """[N, T] mask of tokens that are not padding; None without padding."""
        if self.lengths is None:
            return None
        mask_NT = np.arange(self.token_ids.shape[1])[None, :] < self.lengths[:, None]
        return torch.from_numpy(mask_NT).to(device)


def pad_documents(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    num_samples: int,
    chat: ChatSettings = DEFAULT_CHAT,
) -> Samples:
    """One document a sample, closed by the end-of-text token, cut or padded on the right to `seq_len` tokens.

    Raises:
        DataError: There is no document.
    """
    rows: list[list[int]] = []
    lengths: list[int] = []
    taken = islice(documents, num_samples)
    while found := tokenize_batch(taken, tokenizer, chat=chat):
        for ids in (document.ids_n[:seq_len] for document in found):
            lengths.append(len(ids))
            rows.append(ids + [tokenizer.pad_token_id] * (seq_len - len(ids)))
    if not rows:
        raise DataError("the text must hold at least one document, it holds none")
    return Samples(token_ids=np.asarray(rows, dtype=np.int32), lengths=np.asarray(lengths, dtype=np.int64))


def blend_samples(
    sources: Sequence[TextSource], tokenizer: Tokenizer, *, seq_len: int, num_samples: int, seed: int, packed: bool
) -> Samples:
    """Samples drawn from several sources in proportion to their weights, in an order fixed by the seed.

    Args:
        sources: Where the text is.
        tokenizer: The model's.
        seq_len: Tokens a sample.
        num_samples: How many.
        seed: Fixes the documents and their order.
        packed: Join documents into samples without padding; else each sample is one document.
    """
    if packed:
        return Samples(
            token_ids=blend_sources(sources, tokenizer, seq_len=seq_len, num_sequences=num_samples, seed=seed)
        )
    parts = [
        pad_documents(
            chain.from_iterable(share.rounds),
            tokenizer,
            seq_len=seq_len,
            num_samples=share.num_sequences,
            chat=share.chat,
        )
        for share in shuffled_shares([source.counting_all() for source in sources], num_samples, seed=seed)
    ]
    token_ids = np.concatenate([part.token_ids for part in parts])
    lengths = np.concatenate([part.lengths for part in parts if part.lengths is not None])
    order = np.random.default_rng(seed).permutation(len(token_ids))
    return Samples(token_ids=token_ids[order], lengths=lengths[order])
