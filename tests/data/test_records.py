import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minitron.data.conversations import Conversation
from minitron.data.documents import read_documents, read_kind
from minitron.errors import DataError

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(tmp_path: Path, *rows: Any, **settings: Any) -> list[Any]:
    return list(read_documents(write(tmp_path / "a.jsonl", *rows), **settings))


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"text": "a", "prompt": "b"}, "text"),
        ({"messages": [USER, ASSISTANT], "prompt": "b"}, "messages"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
    ],
)
def test_the_kind_of_records_is_found_from_their_fields(tmp_path: Path, record: Any, kind: str) -> None:
    path = write(tmp_path / "a.jsonl", record)
    assert read_kind(path) == kind
    (document,) = read_documents(path)
    if isinstance(document, Conversation):
        assert [*document.messages] == [USER, ASSISTANT]
        assert document.answers == [1]
        assert document.first_answer == (1 if kind == "prompt_completion" else 0)
    else:
        assert document == "a"


def test_a_record_of_several_kinds_is_refused_until_one_is_stated(tmp_path: Path) -> None:
    record = {"text": "all", "messages": [USER, ASSISTANT]}
    with pytest.raises(DataError, match="can be text or messages by its fields text, messages; say which by"):
        read(tmp_path, record)
    assert read(tmp_path, record, kind="text") == ["all"]
    assert read(tmp_path, record, kind="messages")[0].messages == [USER, ASSISTANT]


def test_fields_that_are_nobodys_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:1 has the fields body, id; name the one to read by field"):
        read(tmp_path, {"body": "a", "id": 1})
    assert read(tmp_path, {"body": "a", "id": 1}, field="body") == ["a"]
    assert read(tmp_path, {"chat": [USER]}, field="chat", kind="messages")[0].messages == [USER]


def test_a_field_that_is_stated_is_read_whatever_others_there_are(tmp_path: Path) -> None:
    record = {"text": "a", "body": "b", "messages": [USER], "chat": [USER, ASSISTANT]}
    assert read(tmp_path, record, field="body") == ["b"]
    assert read(tmp_path, record, field="chat")[0].messages == [USER, ASSISTANT]
    assert read(tmp_path, record, field="messages")[0].messages == [USER]
    with pytest.raises(DataError, match="can be text or messages"):
        read(tmp_path, record)


def test_prompts_and_completions_may_be_messages(tmp_path: Path) -> None:
    system = {"role": "system", "content": "s"}
    (found,) = read(tmp_path, {"prompt": [system, USER], "completion": [ASSISTANT]})
    assert found.messages == [system, USER, ASSISTANT]
    assert (found.first_answer, found.answers) == (2, [2])
    (found,) = read(tmp_path, {"prompt": [USER, ASSISTANT, USER], "completion": "b"})
    assert found.answers == [3]


def test_content_in_parts_of_text_is_joined_and_other_parts_are_refused(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (found,) = read(tmp_path, {"messages": [{"role": "user", "content": parts}]})
    assert found.messages == [{"role": "user", "content": "ab"}]
    image = {"type": "image_url", "image_url": "x"}
    with pytest.raises(DataError, match=r"of type text, .*a\.jsonl:1 message 0 has one of type image_url"):
        read(tmp_path, {"messages": [{"role": "user", "content": [image]}]})


def test_what_a_template_may_read_is_kept(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    trace = {"role": "assistant", "content": "b", "reasoning_content": "t", "thinking": None}
    tools = [{"type": "function", "function": {"name": "f"}}]
    (found,) = read(tmp_path, {"messages": [USER, call, trace], "tools": json.dumps(tools)})
    assert found.messages[1] == {**call, "content": ""}
    assert found.messages[2] == {"role": "assistant", "content": "b", "reasoning_content": "t"}
    assert found.tools == tools


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("text", "messages must be a list of objects with role and content"),
        ([{"from": "human", "value": "a"}], "message 0 has from, value; rename its fields"),
        ([{"role": "user"}], "must have content, .* message 0 has role"),
        ([USER, {"role": "user", "content": 3}], "message 1 holds a int"),
    ],
)
def test_messages_of_another_form_are_told(tmp_path: Path, messages: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(tmp_path, {"messages": messages})


def test_conversations_are_the_same_from_columns_and_from_text_in_a_table(tmp_path: Path) -> None:
    rows = [{"messages": [USER, {**ASSISTANT, "reasoning_content": "t"}]}] * 2
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    quoted = json.dumps(rows[0]["messages"]).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'messages\n"{quoted}"\n"{quoted}"\n')
    expected = read(tmp_path, *rows)
    assert list(read_documents(str(tmp_path / "a.parquet"))) == expected
    assert list(read_documents(str(tmp_path / "a.csv"))) == expected


def test_rows_without_turns_are_skipped_as_rows_without_text_are(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ASSISTANT]}] * 19
    assert len(read(tmp_path, *rows, {"messages": []})) == 19
    with pytest.raises(DataError, match="none in 2 of 21"):
        read(tmp_path, *rows, {"messages": None}, {"messages": []})
