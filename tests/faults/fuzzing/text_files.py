"""Text in every format, names of the hub, and sources."""

import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from minitron.checkpoints.hub import find_config, hub_name
from minitron.data.documents import read_documents
from minitron.data.formats.suffixes import file_format
from minitron.data.locations import locate
from minitron.errors import MinitronError
from minitron.evaluate.task import read_problems
from tests.faults.fuzzing.mutations import HOSTILE, hostile_json, mutated_bytes
from tests.faults.fuzzing.target import Target, from_bytes, from_json, from_lines

CHAT = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "c"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
}
TEXT = {"text": "some text", "id": 3}
PROMPT = {"prompt": "1+1=", "completion": "2", "answer": "2"}
NAMES = ("nvidia/Nano@main", "owner/name", "../../etc/passwd", "a/b@../../c", "data/*.jsonl", "a/" * 3_000)


def text_targets(folder: Path) -> Iterator[Target]:
    """The targets, whose files lie in a folder that is written here."""
    folder.mkdir(parents=True)
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["some", "text", "\u00e9"], "id": [3, 5, None]}), table)
    lines = (json.dumps(TEXT).encode() + b"\n") * 20
    csv = b'text,id\n"some, text",1\nother,2\n"line\nbreak",3\n'
    contents: dict[str, Callable[[random.Random], bytes]] = {
        "JSON lines of text": from_lines(TEXT),
        "JSON lines of chats": from_lines(CHAT),
        "JSON lines of prompts": from_lines(PROMPT),
        "JSON array": from_json([TEXT, TEXT], [CHAT]),
        "csv": from_bytes(csv, b"a,b\n1\n", b'text\n"open\n'),
        "parquet": from_bytes(table.getvalue()),
        "plain text": from_bytes("caf\u00e9\n---\nmore text\n".encode()),
        "gzip": from_bytes(gzip.compress(lines)),
        "zstd": from_bytes(pa.compress(lines, "zstd").to_pybytes()),
    }
    suffixes = {
        "JSON array": ".json",
        "csv": ".csv",
        "parquet": ".parquet",
        "plain text": ".txt",
        "gzip": ".jsonl.gz",
        "zstd": ".jsonl.zst",
    }
    for name, make in contents.items():
        path = folder / f"{name.replace(' ', '-')}{suffixes.get(name, '.jsonl')}"
        yield Target(name=name, path=path, make=make, read=_reading(path))
    task = folder / "task.jsonl"
    yield Target(name="problems of a task", path=task, make=from_lines(PROMPT), read=lambda: read_problems(task))
    given = folder / "name.txt"

    def names() -> None:
        text = given.read_bytes().decode("utf-8", "surrogateescape")
        assert hub_name(text) is None or "/" in text
        faults = []
        for find in (locate, find_config):
            try:
                find(text)
            except MinitronError as error:
                faults.append(str(error))
        file_format(text)
        if faults:
            raise MinitronError(*faults)

    yield Target(name="names on the hub and of sources", path=given, make=_names, read=names)


def _names(rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return b"name.txt"
    if rng.random() < 0.2:
        return hostile_json(rng.choice(HOSTILE), rng)
    return mutated_bytes(rng.choice(NAMES).encode(), rng)


def _reading(path: Path) -> Callable[[], None]:
    def read() -> None:
        for document in read_documents(str(path)):
            assert document is not None

    return read
