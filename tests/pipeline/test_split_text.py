"""The text that a training is watched by is none that it trains on, or that evaluation reads, wherever it can be."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from minitron.data.sequences import blend_text
from minitron.data.sources import TextSource
from minitron.distributed import Ranks
from minitron.pipeline.text import split_text
from minitron.recipe.distill import TrainSection
from minitron.recipe.source import Source
from minitron.runtime.loading import load_tokenizer
from tests.support.paths import TEACHER

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write(path: Path, count: int, *, seed: int = 0) -> str:
    """Documents of words of their own, so that a token sequence says which ones it is of."""
    rng = np.random.default_rng(seed)
    documents = ["".join(rng.choice(list(LETTERS), 80)) for _ in range(count)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path)


def section(*sources: Source, sequences: int = 4, share: float = 0.01) -> TrainSection:
    return TrainSection(
        data=sources,
        tokens=64,
        seq_len=16,
        validation={"sequences": sequences, "share": share},  # type: ignore[arg-type]
    )


def test_the_three_sides_of_a_source_share_no_document() -> None:
    source = TextSource(path="a", held_out=0.2, validation=0.1, part="train")
    documents = [f"document {number}" for number in range(2000)]
    sides = {side: {one for one in documents if source.part_of(one) == side} for side in ("train", "validation")}
    judged = {one for one in documents if source.part_of(one) == "held_out"}
    assert sum(map(len, sides.values())) + len(judged) == len(documents)
    assert 0.07 < len(sides["validation"]) / len(documents) < 0.13
    # What evaluation reads does not depend on what a training is watched by.
    assert judged == {one for one in documents if TextSource(path="a", held_out=0.2).part_of(one) == "held_out"}


def test_no_word_of_validation_text_is_trained_on(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TEACHER)
    sources = (Source(path=write(tmp_path / "a.jsonl", 900)), Source(path=write(tmp_path / "b.jsonl", 900, seed=1)))
    split = split_text(section(*sources, sequences=8), tokenizer, seed=0, ranks=Ranks("cpu"))
    assert split.shares == [0.01, 0.01]
    assert split.validation.shape == (8, 16)
    trained_NT = blend_text(split.sources, tokenizer, seq_len=16, num_sequences=3000, seed=0).ids_NT
    runs = {tuple(row[start : start + 6]) for row in trained_NT.tolist() for start in range(11)}
    watched = {tuple(row[start : start + 6]) for row in split.validation.ids_NT.tolist() for start in range(11)}
    assert not runs & watched


def test_the_same_documents_are_held_out_however_often_it_is_asked(tmp_path: Path) -> None:
    tokenizer, source = load_tokenizer(TEACHER), Source(path=write(tmp_path / "a.jsonl", 900))
    first, again = (split_text(section(source), tokenizer, seed=3, ranks=Ranks("cpu")) for _ in range(2))
    assert first.sources == again.sources
    np.testing.assert_array_equal(first.validation.ids_NT, again.validation.ids_NT)


def test_few_documents_are_split_by_a_larger_share(tmp_path: Path) -> None:
    source = Source(path=write(tmp_path / "a.jsonl", 60))
    split = split_text(section(source, share=1e-6), load_tokenizer(TEACHER), seed=0, ranks=Ranks("cpu"))
    assert split.shares == [0.1]
    assert len(split.validation) == 4


def test_a_single_document_watches_itself_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Source(path=write(tmp_path / "a.jsonl", 1))
    with caplog.at_level(logging.WARNING):
        split = split_text(section(source, sequences=1), load_tokenizer(TEACHER), seed=0, ranks=Ranks("cpu"))
    assert split.shares == [0]
    assert len(split.validation) == 1
    assert any("has too few documents to hold some out" in line for line in caplog.messages)
