"""Text of the kept vocabulary gives the same pieces, other text falls apart, for every kind of tokenizer."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from minitron.models.axes import Indices
from minitron.vocabulary.rewriting import cut_tokenizer, new_ids
from minitron.vocabulary.selection import required_ids, select_tokens
from minitron.vocabulary.settings import VocabularySettings
from minitron.vocabulary.tokenizer_file import TokenizerFile, parse_tokenizer_file, read_tokenizer_file
from tests.support.paths import ROOT
from tests.support.trained_tokenizers import LOSSLESS, MAKERS, trained, training_text, words

QUICKSTART = ROOT / "examples" / "quickstart" / "teacher"
SMOLLM2 = ROOT / "build" / "smollm2" / "teacher"
KINDS = (*MAKERS, "quickstart", *(["smollm2"] if SMOLLM2.is_dir() else []))


@functools.cache
def opened(kind: str) -> tuple[TokenizerFile, Tokenizer]:
    real = {"quickstart": QUICKSTART, "smollm2": SMOLLM2}
    if kind in real:
        return read_tokenizer_file(real[kind]), Tokenizer.from_file(str(real[kind] / "tokenizer.json"))
    return parse_tokenizer_file(json.loads(trained(kind)), kind), Tokenizer.from_str(trained(kind))


@functools.cache
def cut(kind: str, seed: int, share: float) -> tuple[Indices, Tokenizer]:
    """A cut by random counts, so that what is kept is any set of tokens with what they need."""
    file, whole = opened(kind)
    size = whole.get_vocab_size(with_added_tokens=True)
    required = required_ids(file, size)
    wanted = len(required) + int(share * (size - len(required)))
    counts_V = np.random.default_rng(seed).integers(1, 10**6, size)
    kept = select_tokens(counts_V, file, required, VocabularySettings(size=wanted, multiple_of=1))
    assert len(kept) == wanted
    return kept, Tokenizer.from_str(json.dumps(cut_tokenizer(file, new_ids(kept))))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


some_text = st.one_of(
    st.lists(st.sampled_from(words()), max_size=12).map(" ".join),
    st.lists(st.one_of(st.sampled_from(words()), st.text(max_size=5)), max_size=8).map("".join),
    st.text(max_size=30),
)
cuts = st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.5, 0.9]))


@pytest.mark.parametrize("kind", KINDS)
@given(text=some_text, chosen=cuts)
def test_text_of_kept_pieces_gives_the_same_pieces(kind: str, text: str, chosen: tuple[int, float]) -> None:
    (_, whole), (kept, smaller) = opened(kind), cut(kind, *chosen)
    before = whole.encode(text, add_special_tokens=False)
    after = smaller.encode(text, add_special_tokens=False)
    if set(before.ids) <= set(kept.tolist()):
        assert after.tokens == before.tokens
        assert [int(kept[number]) for number in after.ids] == before.ids


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), chosen=cuts)
def test_text_made_of_kept_tokens_gives_the_same_pieces(kind: str, data: Any, chosen: tuple[int, float]) -> None:
    """Unlike random text, most of such text has kept pieces alone."""
    (_, whole), (kept, smaller) = opened(kind), cut(kind, *chosen)
    ids = data.draw(st.lists(st.sampled_from(kept.tolist()), max_size=4))
    text = whole.decode(ids, skip_special_tokens=True)
    before = whole.encode(text, add_special_tokens=False)
    if set(before.ids) <= set(kept.tolist()):
        assert pieces(smaller, text) == before.tokens


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in (*LOSSLESS, "quickstart", "smollm2")])
@given(text=some_text, chosen=cuts)
def test_nothing_of_other_text_is_lost(kind: str, text: str, chosen: tuple[int, float]) -> None:
    (_, whole), (_, smaller) = opened(kind), cut(kind, *chosen)
    one, other = (each.encode(text, add_special_tokens=False) for each in (whole, smaller))
    assert smaller.decode(other.ids) == whole.decode(one.ids)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in (*LOSSLESS, "quickstart", "smollm2")])
def test_all_words_together_take_more_pieces(kind: str) -> None:
    """Of a single word that is no law: merges that are gone may have stood in the way of better ones."""
    (_, whole), (_, smaller) = opened(kind), cut(kind, 0, 0.5)
    assert sum(len(pieces(smaller, word)) for word in words()) > sum(len(pieces(whole, word)) for word in words())


@pytest.mark.parametrize("kind", KINDS)
def test_the_premise_is_not_empty(kind: str) -> None:
    _, whole = opened(kind)
    kept, _ = cut(kind, 0, 0.9)
    known = set(kept.tolist())
    hits = [text for text in words() if set(whole.encode(text, add_special_tokens=False).ids) <= known]
    assert len(hits) > len(words()) / 4


@pytest.mark.parametrize("kind", ["byte-level", "every-split", "byte-fallback", "quickstart"])
def test_without_the_merges_ancestry_pieces_would_be_others(kind: str) -> None:
    file, whole = opened(kind)
    text = training_text()[0]
    encoded = whole.encode(text, add_special_tokens=False)
    size = whole.get_vocab_size(with_added_tokens=True)
    counts_V = np.bincount(encoded.ids, minlength=size)
    bare = np.asarray(sorted(set(encoded.ids) | file.base_ids | set(file.added.values())), dtype=np.int64)
    settings = VocabularySettings(min_count=1, multiple_of=1)
    closed = select_tokens(counts_V, file, required_ids(file, size), settings)
    assert set(bare.tolist()) < set(closed.tolist())
    for kept, same in ((bare, False), (closed, True)):
        smaller = Tokenizer.from_str(json.dumps(cut_tokenizer(file, new_ids(kept))))
        assert (pieces(smaller, text) == encoded.tokens) is same


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_kept_and_put_where_they_were(kind: str) -> None:
    file, whole = opened(kind)
    kept, smaller = cut(kind, 1, 0.1)
    text = "a <s> b</s>"
    before, after = whole.encode(text), smaller.encode(text)
    for token, number in file.added.items():
        new = smaller.token_to_id(token)
        assert new is not None
        assert kept[new] == number
    assert [token for token in after.tokens if token in file.added] == [
        token for token in before.tokens if token in file.added
    ]


def test_a_tokenizer_is_read_from_its_folder_as_it_is() -> None:
    found = read_tokenizer_file(QUICKSTART)
    assert found.kind == "BPE"
    assert found.all_ids == Tokenizer.from_file(str(QUICKSTART / "tokenizer.json")).get_vocab(with_added_tokens=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "WordLevel"}, "BPE, Unigram, WordPiece"),
        ({"dropout": 0.1}, "without dropout"),
        ({"continuing_subword_prefix": "##"}, "without continuing_subword_prefix"),
        ({"end_of_word_suffix": "</w>"}, "without end_of_word_suffix"),
        ({"vocab": 3}, "must list its tokens"),
    ],
)
def test_kinds_that_cannot_be_cut_exactly_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    content = json.loads(trained("byte-level"))
    content["model"] |= change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        read_tokenizer_file(tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cut by tokenizer\.json"):
        read_tokenizer_file(tmp_path)
