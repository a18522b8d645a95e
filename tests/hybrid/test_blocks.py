from pathlib import Path

import numpy as np
import pytest

from minitron.hybrid.blocks import blend_sources, pack_documents
from minitron.hybrid.sources import TextSource
from tests.conftest import make_tokenizer

EOS = 2


def write_documents(path: Path, letter: str, count: int) -> TextSource:
    path.write_text("".join(f'{{"text": "{letter * 9}"}}\n' for _ in range(count)))
    return TextSource(path=str(path))


def test_packing_joins_documents_with_end_of_text_and_pads_nothing() -> None:
    tokenizer = make_tokenizer()
    blocks_NT = pack_documents(["ab", "cde", "fghij"], tokenizer, seq_len=4, num_blocks=9)
    joined = [i for document in ("ab", "cde", "fghij") for i in [*tokenizer(document)["input_ids"], EOS]]
    assert blocks_NT.tolist() == [joined[:4], joined[4:8], joined[8:12]]


def test_text_too_short_for_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match="must fill one block of 8 tokens, it has 3"):
        pack_documents(["ab"], make_tokenizer(), seq_len=8, num_blocks=1)


def test_a_blend_keeps_the_weights_and_is_fixed_by_its_seed(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    a, b = write_documents(tmp_path / "a.jsonl", "a", 50), write_documents(tmp_path / "b.jsonl", "b", 50)
    sources = [TextSource(path=a.path, weight=3.0), TextSource(path=b.path, weight=1.0)]
    blocks_NT = blend_sources(sources, tokenizer, seq_len=10, num_blocks=20, seed=5)
    (token_b,) = tokenizer("b")["input_ids"]
    assert (blocks_NT == token_b).any(axis=1).sum() == 5
    np.testing.assert_array_equal(blocks_NT, blend_sources(sources, tokenizer, seq_len=10, num_blocks=20, seed=5))
    assert not np.array_equal(blocks_NT, blend_sources(sources, tokenizer, seq_len=10, num_blocks=20, seed=6))


def test_a_short_source_is_read_again_until_its_share_is_full(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "a.jsonl", "a", 3)
    assert blend_sources([source], make_tokenizer(), seq_len=10, num_blocks=11, seed=0).shape == (11, 10)


def test_a_source_of_empty_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 3)
    with pytest.raises(ValueError, match="every document of .* is empty"):
        blend_sources([TextSource(path=str(tmp_path / "a.jsonl"))], make_tokenizer(), seq_len=8, num_blocks=1, seed=0)
