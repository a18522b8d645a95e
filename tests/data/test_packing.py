"""Packing: bit for bit the blend, in bounded memory, resumed after a kill, shared between processes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minitron.artifacts import disk_space as disk
from minitron.artifacts.artifact import working_folder
from minitron.artifacts.locks import locked
from minitron.data import sequences as sequences_module
from minitron.data import sources
from minitron.data.packing import shared_sequence_file, write_sequence_file
from minitron.data.sequence_file import SequenceFile
from minitron.data.sequences import blend_sources
from minitron.data.sources import Blend, TextSource
from minitron.data.special_tokens import PROBE
from minitron.distributed import Ranks
from tests.support.models import make_tokenizer

SIZES: dict[str, int] = {"seq_len": 12, "num_sequences": 61, "seed": 3}


class CountingTokenizer:
    """A tokenizer that keeps its documents and is killed after so many that hold a word."""

    def __init__(self, fatal: str = "", after: int = 0) -> None:
        self._tokenizer = make_tokenizer()
        self.eos_token_id = self._tokenizer.eos_token_id
        self.get_vocab = self._tokenizer.get_vocab
        self.fatal, self.after = fatal, after
        self.seen: list[str] = []

    def __call__(self, documents: list[str], **options: Any) -> Any:
        self.seen += [document for document in documents if document != PROBE]
        if self.fatal and sum(self.fatal in document for document in self.seen) > self.after:
            raise KeyboardInterrupt
        return self._tokenizer(documents, **options)


@pytest.fixture
def three_sources(tmp_path: Path) -> list[TextSource]:
    found = []
    for number, (name, weight) in enumerate({"first": 3.0, "second": 2.0, "third": 1.0}.items()):
        documents = [f"{name} {i} " * (1 + i % 4) for i in range(40 + number)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        found.append(TextSource(path=str(tmp_path / f"{name}.jsonl"), weight=weight))
    return found


def write(path: Path, found: list[TextSource], tokenizer: Any = None, **changes: Any) -> SequenceFile:
    made_from = changes.pop("made_from", {"text": "a hash"})
    blend = Blend(sources=found, **{**SIZES, **changes})
    return write_sequence_file(path, blend, tokenizer or make_tokenizer(), made_from=made_from)


def test_a_file_holds_the_blend_bit_for_bit_and_nothing_is_left_beside_it(
    tmp_path: Path, three_sources: list[TextSource]
) -> None:
    blocks = write(tmp_path / "run" / "blocks", three_sources)
    np.testing.assert_array_equal(blocks[:], blend_sources(three_sources, make_tokenizer(), **SIZES))
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "blocks"]


def test_after_a_kill_in_the_second_source_the_first_is_not_tokenized_again(
    tmp_path: Path, three_sources: list[TextSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences_module, "BATCH_DOCUMENTS", 4)
    whole = write(tmp_path / "whole", three_sources).path.read_bytes()
    killed = CountingTokenizer(fatal="second", after=4)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "blocks", three_sources, killed)
    assert {document.split()[0] for document in killed.seen} == {"first", "second"}
    assert not (tmp_path / "blocks").exists()
    resumed = CountingTokenizer()
    blocks = write(tmp_path / "blocks", three_sources, resumed)
    assert {document.split()[0] for document in resumed.seen} == {"second", "third"}
    assert blocks.path.read_bytes() == whole


@pytest.mark.parametrize("change", [{"seed": 4}, {"made_from": {"text": "another hash"}}, {"seq_len": 11}])
def test_work_left_by_other_inputs_is_done_anew(
    tmp_path: Path, three_sources: list[TextSource], caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "blocks", three_sources, CountingTokenizer(fatal="third"))
    tokenizer = CountingTokenizer()
    blocks = write(tmp_path / "blocks", three_sources, tokenizer, **change)
    sizes = {name: size for name, size in (SIZES | change).items() if name in SIZES}
    np.testing.assert_array_equal(blocks[:], blend_sources(three_sources, make_tokenizer(), **sizes))
    assert any("first" in document for document in tokenizer.seen)
    assert "other inputs and is cleared" in caplog.text


def test_work_left_of_other_sources_is_done_anew(tmp_path: Path, three_sources: list[TextSource]) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "blocks", three_sources, CountingTokenizer(fatal="second"))
    turned = three_sources[::-1]
    np.testing.assert_array_equal(
        write(tmp_path / "blocks", turned)[:], blend_sources(turned, make_tokenizer(), **SIZES)
    )


def test_a_finished_file_is_opened_and_no_text_is_read(tmp_path: Path, three_sources: list[TextSource]) -> None:
    write(tmp_path / "blocks", three_sources)
    tokenizer = CountingTokenizer()
    write(tmp_path / "blocks", three_sources, tokenizer)
    assert not tokenizer.seen


def test_a_finished_file_of_something_else_is_refused(tmp_path: Path, three_sources: list[TextSource]) -> None:
    write(tmp_path / "blocks", three_sources)
    with pytest.raises(ValueError, match="has another seed and made_from; delete it or choose another output"):
        write(tmp_path / "blocks", three_sources, seed=4, made_from={"text": "another hash"})


def test_a_second_writer_is_refused(tmp_path: Path, three_sources: list[TextSource]) -> None:
    with locked(tmp_path / "blocks"), pytest.raises(ValueError, match="another process is writing"):
        write(tmp_path / "blocks", three_sources)


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path, three_sources: list[TextSource]) -> None:
    partial = working_folder(tmp_path / "blocks")
    partial.mkdir()
    (partial / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is in the way and was not written by minitron"):
        write(tmp_path / "blocks", three_sources)
    assert (partial / "thesis.txt").read_text() == "mine"


def test_a_full_disk_is_refused_before_any_text_is_read(
    tmp_path: Path, three_sources: list[TextSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, tokenizer = SIZES["num_sequences"] * SIZES["seq_len"] * 2, CountingTokenizer()
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _folder: type("Usage", (), {"free": needed}))
    with pytest.raises(ValueError, match="GiB free for the packed text"):
        write(tmp_path / "blocks", three_sources, tokenizer)
    assert not tokenizer.seen


def test_documents_are_held_by_the_buffer_and_one_batch_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, most, read = CountingTokenizer(), 0, 0

    def read_many(*_args: Any, **_options: Any) -> Iterator[str]:
        nonlocal most, read
        for i in range(100_000):
            read += 1
            most = max(most, read - len(tokenizer.seen))
            yield f"document {i}"

    monkeypatch.setattr(sources, "read_documents", read_many)
    monkeypatch.setattr(sequences_module, "BATCH_DOCUMENTS", 16)
    source = TextSource(path="many", kind="text", buffer_documents=50)
    write(tmp_path / "blocks", [source], tokenizer, num_sequences=3000)
    assert read > 2000
    assert most <= 50 + 1 + 16


def test_other_processes_wait_for_the_first_ones_file(tmp_path: Path, three_sources: list[TextSource]) -> None:
    path, found, blend = tmp_path / "blocks", {}, Blend(sources=three_sources, **SIZES)
    others = [Ranks(), Ranks()]
    for index, ranks in enumerate(others, start=1):
        ranks.rank, ranks.world_size = index, 3

    def wait(ranks: Ranks) -> None:
        found[ranks.rank] = shared_sequence_file(ranks, path, blend, tokenizers[ranks.rank], made_from={}, poll_s=0.01)

    tokenizers = [CountingTokenizer() for _ in range(3)]
    threads = [threading.Thread(target=wait, args=(ranks,), daemon=True) for ranks in others]
    for thread in threads:
        thread.start()
    threads[0].join(timeout=0.1)
    assert not found
    first = shared_sequence_file(Ranks(), path, blend, tokenizers[0], made_from={})
    for thread in threads:
        thread.join(timeout=30)
    assert [len(tokenizer.seen) > 0 for tokenizer in tokenizers] == [True, False, False]
    for blocks in found.values():
        np.testing.assert_array_equal(blocks[:], first[:])
    assert len(found) == 2


def test_a_waiting_process_refuses_a_file_of_something_else(tmp_path: Path, three_sources: list[TextSource]) -> None:
    write(tmp_path / "blocks", three_sources)
    blend, ranks = Blend(sources=three_sources, **SIZES), Ranks()
    ranks.rank, ranks.world_size = 1, 2
    with pytest.raises(ValueError, match="has another made_from"):
        shared_sequence_file(ranks, tmp_path / "blocks", blend, make_tokenizer(), made_from={})
