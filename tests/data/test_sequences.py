import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitron.data import sequences
from minitron.data.masks import PackedText
from minitron.data.sequences import blend_sources, pack_documents
from minitron.data.sources import TextSource, source_seed
from tests.support.models import make_tokenizer

EOS = 2


def write_documents(path: Path, letter: str, count: int) -> TextSource:
    path.write_text("".join(f'{{"text": "{letter * 9}"}}\n' for _ in range(count)))
    return TextSource(path=str(path))


def pack(documents: Iterable[str], tokenizer: Any, **sizes: int) -> np.ndarray:
    return PackedText.joined(list(pack_documents(documents, tokenizer, **sizes))).ids_NT


def test_packing_joins_documents_with_end_of_text_and_pads_nothing() -> None:
    tokenizer = make_tokenizer()
    sequences_NT = pack(["ab", "cde", "fghij"], tokenizer, seq_len=4, num_sequences=9)
    joined = [i for document in ("ab", "cde", "fghij") for i in [*tokenizer(document)["input_ids"], EOS]]
    assert sequences_NT.tolist() == [joined[:4], joined[4:8], joined[8:12]]


def test_text_too_short_for_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match="must fill one sequence of 8 tokens, it has 3"):
        pack(["ab"], make_tokenizer(), seq_len=8, num_sequences=1)


def test_a_blend_keeps_the_weights_and_is_fixed_by_its_seed(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    a, b = write_documents(tmp_path / "a.jsonl", "a", 50), write_documents(tmp_path / "b.jsonl", "b", 50)
    sources = [TextSource(path=a.path, weight=3.0), TextSource(path=b.path, weight=1.0)]
    sequences_NT = blend_sources(sources, tokenizer, seq_len=10, num_sequences=20, seed=5)
    (token_b,) = tokenizer("b")["input_ids"]
    assert (sequences_NT == token_b).any(axis=1).sum() == 5
    np.testing.assert_array_equal(sequences_NT, blend_sources(sources, tokenizer, seq_len=10, num_sequences=20, seed=5))
    assert not np.array_equal(sequences_NT, blend_sources(sources, tokenizer, seq_len=10, num_sequences=20, seed=6))


def test_a_short_source_is_read_again_until_its_share_is_full(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "a.jsonl", "a", 3)
    assert blend_sources([source], make_tokenizer(), seq_len=10, num_sequences=11, seed=0).shape == (11, 10)


def test_a_source_of_empty_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 3)
    with pytest.raises(ValueError, match="every document of .* is empty"):
        blend_sources(
            [TextSource(path=str(tmp_path / "a.jsonl"))], make_tokenizer(), seq_len=8, num_sequences=1, seed=0
        )


def plain_blend(texts: list[list[str]], seeds: list[int], tokenizer: Any, *, share: int, seq_len: int) -> Any:
    """The blend's definition with nothing streamed: equal shares, every document by itself, whole permutations."""
    found: list[list[int]] = []
    for documents, seed in zip(texts, seeds, strict=True):
        rng, mine = np.random.default_rng(seed), len(found) + share
        while len(found) < mine:
            order = rng.permutation(len(documents))
            ids = [i for at in order for i in [*tokenizer(documents[at])["input_ids"], EOS]]
            full = [ids[at : at + seq_len] for at in range(0, len(ids) - seq_len + 1, seq_len)]
            found += full[: mine - len(found)]
    return np.asarray(found)


@pytest.mark.parametrize("batch", [(1, 10**9), (3, 10**9), (1024, 50)])
def test_a_blend_is_what_whole_permutations_of_single_documents_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: tuple[int, int]
) -> None:
    monkeypatch.setattr(sequences, "BATCH_DOCUMENTS", batch[0])
    monkeypatch.setattr(sequences, "BATCH_CHARS", batch[1])
    rng, seq_len, seed = np.random.default_rng(3), 13, 8
    texts = [["".join(rng.choice(list("abcäö "), size)) for size in rng.integers(1, 40, count)] for count in (37, 23)]
    sources = []
    for number, documents in enumerate(texts):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps({f"field{number}": text}) + "\n" for text in documents))
        sources.append(TextSource(path=str(path), field=f"field{number}"))
    share = 150
    expected = plain_blend(
        texts, [source_seed(source, seed) for source in sources], make_tokenizer(), share=share, seq_len=seq_len
    )
    order = np.random.default_rng(seed).permutation(2 * share)
    sequences_NT = blend_sources(sources, make_tokenizer(), seq_len=seq_len, num_sequences=2 * share, seed=seed)
    assert sequences_NT.dtype == np.int32
    np.testing.assert_array_equal(sequences_NT, expected[order])


def test_little_more_is_tokenized_than_the_blocks_take() -> None:
    taken = 0

    def documents() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "ten chars."

    assert pack(documents(), make_tokenizer(), seq_len=11, num_sequences=8).shape == (8, 11)
    assert taken <= 4 * 11 * 8 / 10 + 1
