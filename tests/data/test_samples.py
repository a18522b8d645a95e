"""Samples: shares, masks, and padded documents in place of packed ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from minitron.data.samples import Samples, blend_samples, pad_documents
from minitron.data.sources import TextSource
from tests.support.models import make_tokenizer

EOS, PAD = 2, 0


def test_documents_are_closed_cut_and_padded_on_the_right() -> None:
    tokenizer = make_tokenizer()
    samples = pad_documents(["ab", "abcdefgh"], tokenizer, seq_len=5, num_samples=9)
    (a, b, c, d, e) = tokenizer("abcde")["input_ids"]
    assert samples.token_ids.tolist() == [[a, b, EOS, PAD, PAD], [a, b, c, d, e]]
    mask_NT = samples.mask(torch.device("cpu"))
    assert mask_NT is not None
    assert mask_NT.tolist() == [[True, True, True, False, False], [True] * 5]
    assert samples.num_tokens == 8


def test_no_document_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        pad_documents([], make_tokenizer(), seq_len=5, num_samples=1)


def test_shares_are_disjoint_and_whole() -> None:
    samples = Samples(token_ids=np.arange(14, dtype=np.int32).reshape(7, 2), lengths=np.array([1, 2, 1, 2, 1, 2, 1]))
    shares = [samples.share(index, 3) for index in range(3)]
    assert sorted(row for share in shares for row in share.token_ids[:, 0].tolist()) == list(range(0, 14, 2))
    assert sum(share.num_tokens for share in shares) == samples.num_tokens
    assert [len(batch) for batch in samples.batches(3)] == [3, 3, 1]


@pytest.mark.parametrize("packed", [True, False])
def test_a_blend_of_samples_keeps_the_weights_and_repeats_short_sources_with_a_warning(
    tmp_path: Path, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for letter in "ab":
        (tmp_path / f"{letter}.jsonl").write_text("".join(f'{{"text": "{letter * 9}"}}\n' for _ in range(4)))
    sources = [TextSource(path=str(tmp_path / f"{letter}.jsonl"), weight=w) for letter, w in (("a", 3.0), ("b", 1.0))]
    tokenizer = make_tokenizer()
    samples = blend_samples(sources, tokenizer, seq_len=12, num_samples=16, seed=3, packed=packed)
    (token_b,) = tokenizer("b")["input_ids"]
    assert len(samples) == 16
    assert (samples.token_ids == token_b).any(axis=1).sum() == 4
    assert (samples.lengths is None) == packed
    assert "read again from its start" in caplog.text
