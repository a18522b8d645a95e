from pathlib import Path

import pytest

from minitron.data.locations import locate
from minitron.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("text.jsonl", "text.pdf", "shards/b.csv", "shards/a.csv", "mixed/a.csv", "mixed/b.jsonl", "bare/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("text.jsonl", ["text.jsonl"]),
        ("shards", ["shards/a.csv", "shards/b.csv"]),
        ("shards/*.csv", ["shards/a.csv", "shards/b.csv"]),
        ("*/a.csv", ["mixed/a.csv", "shards/a.csv"]),
        ("owner/name", []),
        ("allenai/c4.v1", []),
    ],
)
def test_a_name_stands_for_its_files_in_sorted_order(folder: Path, source: str, files: list[str]) -> None:
    assert [str(path) for path in locate(source).files] == files
    assert locate(source).on_hub == (files == [])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("texts", "got texts, which is not there; did you mean text."),
        ("txet.jsonl", "a file that is there, txet.jsonl is not; did you mean text.jsonl"),
        ("nowhere/text.jsonl", "a file that is there, nowhere/text.jsonl is not$"),
        ("no such name", "a dataset's owner/name, got no such name"),
        ("text.pdf", "must be .txt, .json, .jsonl, .csv, .parquet .*, got text.pdf"),
        ("shards/*.jsonl", "a pattern must match a file, shards/\\*.jsonl matches none"),
        ("mixed", "of one format, mixed has a.csv and b.jsonl; name those to read by a pattern"),
        ("bare", "bare holds x.md"),
        ("empty", "empty holds nothing"),
    ],
)
def test_what_is_not_there_or_not_text_is_told_in_a_line(folder: Path, source: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        locate(source)
    assert "\n" not in str(caught.value)
