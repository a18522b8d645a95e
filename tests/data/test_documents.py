import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minitron.data.documents import read_documents
from minitron.errors import DataError

DOCUMENTS = ["first one", "second\nof two lines", "third: äöü"]


def write(path: Path) -> str:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in DOCUMENTS))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"text": DOCUMENTS}), path)
    else:
        path.write_text("\n---\n".join(DOCUMENTS))
    return str(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    assert list(read_documents(write(tmp_path / name))) == DOCUMENTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_missing_field_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="'body'.*text"):
        list(read_documents(write(tmp_path / name), field="body"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_missing_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="text file not found"):
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


def test_a_row_without_text_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    rows = [*map(str, range(3000)), None]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="row 3000 "):
        list(read_documents(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_text_of_another_encoding_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=rf"text must be UTF-8, .*{name} is not"):
        list(read_documents(str(tmp_path / name)))


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"must be one that pyarrow reads, .*text\.parquet is not"):
        list(read_documents(str(tmp_path / "text.parquet")))
