"""Every format and compression gives the same documents, and says where it is faulty."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minitron.data.documents import read_documents
from minitron.errors import DataError

DOCUMENTS = ["first one", 'second\nof two, "quoted" lines', "third: äöü 日"]
ROWS = [{"text": text, "id": number} for number, text in enumerate(DOCUMENTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "text"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_frames(path: Path) -> None:
    """A .zst file of several frames, as parallel compressors write."""
    halves = LINES.encode()[:30], LINES.encode()[30:]
    path.write_bytes(b"".join(pa.compress(half, codec="zstd", asbytes=True) for half in halves))


def write_saved(path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(str(path))


def write_splits(path: Path) -> None:
    from datasets import Dataset, DatasetDict

    other = Dataset.from_list([{"text": "of another split"}])
    DatasetDict({"test": other, "train": Dataset.from_list(ROWS)}).save_to_disk(str(path))


def write_shards(path: Path) -> None:
    path.mkdir()
    for number, line in enumerate(LINES.splitlines()):
        (path / f"part-{number}.jsonl").write_text(line)
    (path / "README.md").write_text("no text of it")
    (path / ".hidden.jsonl").write_text('{"text": "not to be read"}')


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": lambda path: path.write_text("\n---\n".join(DOCUMENTS)),
    "A.TXT": lambda path: path.write_text("\n---\n".join(DOCUMENTS)),
    "a.txt.gz": lambda path: path.write_bytes(gzip.compress("\n---\n".join(DOCUMENTS).encode())),
    "a.jsonl": lambda path: path.write_text(LINES),
    "a.JSONL": lambda path: path.write_text(LINES),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.jsonl.zst": write_frames,
    "lines.json": lambda path: path.write_text("\n" + LINES),
    "array.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "a.csv": write_csv,
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "saved": write_saved,
    "splits": write_splits,
    "shards": write_shards,
}


def write(path: Path) -> str:
    WRITERS[path.name](path)
    return str(path)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    assert list(read_documents(write(tmp_path / name))) == DOCUMENTS


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "lines.json", "array.json", "a.csv"])
def test_a_byte_order_mark_is_read_away(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert list(read_documents(str(tmp_path / name))) == DOCUMENTS


def test_shards_of_a_pattern_are_read_in_sorted_order(tmp_path: Path) -> None:
    write(tmp_path / "shards")
    assert list(read_documents(str(tmp_path / "shards" / "*.jsonl"))) == DOCUMENTS
    assert list(read_documents(str(tmp_path / "**" / "part-[12].jsonl"))) == DOCUMENTS[1:]


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of test, train in .*splits, got 'dev'"):
        list(read_documents(write(tmp_path / "splits"), split="dev"))


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"splits"}))
def test_a_missing_field_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="'body'.*text"):
        list(read_documents(write(tmp_path / name), field="body"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_missing_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must be a file that is there"):
        list(read_documents(str(tmp_path / name)))


def test_a_broken_line_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2 is not"):
        list(read_documents(str(tmp_path / "a.jsonl")))


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds none"):
        list(read_documents(str(tmp_path / "a.jsonl")))


def test_a_dataset_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(ValueError, match="neither a file here nor a dataset that could be opened") as caught:
        list(read_documents("nobody/nothing"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "---\na\n---\n---\nb\n---\n\n---\nc\n---",
        "a\r\n---\r\nb",
        "a\n---\nb\n\n---\n",
        "a\n --- \n---",
        "\n---\nb\n---\n",
    ],
)
def test_a_text_file_is_split_at_lines_of_three_dashes_between_other_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    parts = text.replace("\r\n", "\n").split("\n---\n")
    assert list(read_documents(str(tmp_path / "a.txt"))) == [part for part in parts if part.strip()]


def test_a_row_of_something_else_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    rows = [[0]] * 3001
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="must hold text, .*a.parquet row 0 holds a list"):
        list(read_documents(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_text_of_another_encoding_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=rf"text must be UTF-8, .*{name} is not: line 1 holds 0xe9 at byte 13 "):
        list(read_documents(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.jsonl.gz"])
def test_a_byte_that_is_not_utf_8_is_told_with_line_and_byte_and_how_to_convert(tmp_path: Path, name: str) -> None:
    # Beyond what is decoded at once, so that the decoder's own position is of no help.
    before = b"".join(b'{"text": "line %06d"}\n' % number for number in range(2000))
    content = before + b'{"text": "caf\xe9"}\n'
    if name == "a.csv":
        content = b"text\n" + b"line\n" * 1999 + b"caf\xe9\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    line = content[: content.index(b"\xe9")].count(b"\n") + 1
    with pytest.raises(
        DataError, match=rf"line {line} holds 0xe9 at byte {content.index(0xE9)} of .*iconv -f ISO-8859-1 -t UTF-8"
    ) as caught:
        list(read_documents(str(tmp_path / name)))
    assert ("decompressed" in str(caught.value)) == name.endswith(".gz")


def test_utf_16_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("some text".encode("utf-16"))
    with pytest.raises(DataError, match="line 1 holds 0x.. at byte 0 of the file; .*iconv -f UTF-16"):
        list(read_documents(str(tmp_path / "a.txt")))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_compressed_file_is_one_line(tmp_path: Path, name: str, damage: str) -> None:
    path = Path(write(tmp_path / name))
    path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else b"garbage that is nothing")
    with pytest.raises(DataError, match=f"{name} is damaged or cut off") as caught:
        list(read_documents(str(path)))
    assert "\n" not in str(caught.value)


def test_a_field_longer_than_the_csv_modules_limit_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    (tmp_path / "a.csv").write_text(f"text\n{long}\n")
    assert list(read_documents(str(tmp_path / "a.csv"))) == [long]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "id,text\n1,a, b\n", r"the 2 fields .*a\.csv:2 has 3; put double quotes"),
        ("a.csv", 'id,text\n1,"a', r"well formed, .*a\.csv:2 is not"),
        ("a.json", '[{"text": "a"},\n{"text": ]', r"a\.json:2 is not JSON: Expecting value"),
        ("a.json", "[1]", r"must hold JSON objects, .*a\.json row 0 is a int"),
        ("a.jsonl", "[1]", r"a\.jsonl:1 holds a list"),
        ("a.jsonl", '{"text": 3}', r"must hold text, .*a\.jsonl:1 holds a int"),
    ],
)
def test_a_malformed_file_is_told_by_its_place(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        list(read_documents(str(tmp_path / name)))


def write_rows(path: Path, *, full: int, without: int) -> str:
    rows = [{"text": f"row {number}"} for number in range(full)] + [
        {"text": (None, "", " \n")[number % 3]} for number in range(without)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_without_text_are_skipped_counted_and_reported_up_to_a_twentieth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = list(read_documents(write_rows(tmp_path / "a.jsonl", full=57, without=3)))
    assert found == [f"row {number}" for number in range(57)]
    assert "skipped 3 of 60 rows, which hold no text" in caplog.text
    with pytest.raises(DataError, match="at most 5% of a source's rows may have no text, .* has none in 4 of 61"):
        list(read_documents(write_rows(tmp_path / "b.jsonl", full=57, without=4)))
    with pytest.raises(DataError, match="every document of .* is empty"):
        list(read_documents(write_rows(tmp_path / "c.jsonl", full=0, without=2)))


def test_the_offline_mode_is_named_where_it_is_why_a_dataset_is_not_found() -> None:
    with pytest.raises(DataError, match="offline mode is on"):
        list(read_documents("nobody/nothing"))


def test_a_name_that_the_hub_does_not_know_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    asked: list[str] = []

    def answer(_self: object, name: str, *, timeout: float) -> None:
        asked.append(name)
        raise ConnectionError("no such name\nand more")

    def load(*_args: object, **_options: object) -> None:
        raise AssertionError("what is not there is not loaded")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)
    with pytest.raises(
        DataError, match="nobody/nothing is neither a file here .*: no such name; mend it, log in"
    ) as caught:
        list(read_documents("nobody/nothing"))
    assert asked == ["nobody/nothing"]
    assert "\n" not in str(caught.value)


def test_reading_lines_loads_neither_torch_nor_datasets() -> None:

    program = (
        "import sys, minitron.data.documents; print([n for n in ('torch', 'datasets', 'pyarrow') if n in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"must be one that pyarrow reads, .*text\.parquet is not"):
        list(read_documents(str(tmp_path / "text.parquet")))
