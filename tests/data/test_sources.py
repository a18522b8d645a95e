import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from minitron.data.sources import TextSource, shuffled_shares

DOCUMENTS = [f"{i}: {'text of a document ' * (i % 7)}" for i in range(400)]


def write(path: Path, documents: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return str(path)


def is_held_out(document: str, share: float) -> bool:
    return TextSource(path="a.jsonl", held_out=share).part_of(document) == "held_out"


def one_round(path: str, **settings: Any) -> list[str]:
    (share,) = shuffled_shares([TextSource(path=path, **settings)], 5, seed=2)
    return [text for text in next(share.rounds) if isinstance(text, str)]


def test_a_split_puts_every_document_on_one_side_by_its_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DOCUMENTS)
    train, held_out = one_round(path, held_out=0.3, part="train"), one_round(path, held_out=0.3, part="held_out")
    assert sorted(train + held_out) == sorted(DOCUMENTS)
    assert 0.2 < len(held_out) / len(DOCUMENTS) < 0.4
    assert all(is_held_out(document, 0.3) for document in held_out)


def test_a_copy_in_another_file_falls_on_the_same_side(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", DOCUMENTS[:250])
    second = write(tmp_path / "b.jsonl", [*DOCUMENTS[399:150:-1], *DOCUMENTS[160:170]])
    trained = one_round(first, held_out=0.4, part="train")
    judged = one_round(second, held_out=0.4, part="held_out")
    assert trained
    assert judged
    assert not set(trained) & set(judged)


def test_excerpts_stay_on_the_side_of_their_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DOCUMENTS)
    held_out = one_round(path, held_out=0.3, part="held_out", excerpt_chars=11)
    expected = [
        document[start : start + 11]
        for document in DOCUMENTS
        if is_held_out(document, 0.3)
        for start in range(0, len(document), 11)
    ]
    assert sorted(held_out) == sorted(expected)


def test_a_larger_share_holds_out_what_a_smaller_one_does() -> None:
    smaller, larger = ({text for text in DOCUMENTS if is_held_out(text, share)} for share in (0.1, 0.2))
    assert smaller < larger


def test_text_that_is_no_valid_unicode_has_a_side() -> None:
    assert is_held_out("\ud800", 0.0) is False


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_a_part_without_documents_is_refused(tmp_path: Path, part: str) -> None:
    share = 1e-12 if part == "held_out" else 1 - 1e-12
    with pytest.raises(ValueError, match=f"has none in its {part} part"):
        one_round(write(tmp_path / "a.jsonl", DOCUMENTS[:3]), held_out=share, part=part)


@pytest.mark.parametrize("settings", [{"held_out": 1.0}, {"held_out": -0.1}, {"part": "held_out"}])
def test_a_split_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="held_out"):
        TextSource(path="a.jsonl", **settings)


def test_a_source_beyond_the_buffer_is_read_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", DOCUMENTS)
    (share,) = shuffled_shares([TextSource(path=path, buffer_documents=20)], 5, seed=2)
    first = list(next(share.rounds))
    assert "read again" not in caplog.text
    second, third = (list(documents) for documents in islice(share.rounds, 2))
    assert sorted(first) == sorted(second) == sorted(third) == sorted(DOCUMENTS)
    assert first != second
    assert caplog.text.count("read again from its start") == 1
    assert share.num_sequences == 5
