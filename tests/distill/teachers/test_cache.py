"""A teacher's cache, from its writer to its reader."""

import json
import re
import shutil
import struct
import threading
import zlib
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.distill.loss.objective import TopTargets
from minitron.distill.teachers.cache_file import open_teacher_cache
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.records import bytes_per_token
from minitron.distill.teachers.top_k import keep_top_k
from tests.support.teacher_caches import (
    NUM_BLOCKS,
    SEQ_LEN,
    VOCAB,
    RandomTeacher,
    StoppedError,
    files,
    make_blocks,
    write,
)

BATCHES = [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9, 10]]


def read(folder: Path, sequences_NT: Any, index: list[int], **settings: Any) -> TopTargets:
    teacher = CachedTeacher(open_teacher_cache(folder), **settings)
    ids_BT = torch.from_numpy(np.stack([sequences_NT[i] for i in index]).astype(np.int64))
    return teacher.targets(ids_BT, torch.tensor(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("top_k", [1, 5, VOCAB - 1])
def test_what_is_read_is_the_top_k_of_the_teacher(
    tmp_path: Path, top_k: int, temperature: float, dtype: torch.dtype
) -> None:
    sequences_NT, teacher = make_blocks(), RandomTeacher(dtype=dtype)
    write(tmp_path, teacher, top_k=top_k, temperature=temperature)
    index = [9, 0, 4]
    found = read(tmp_path, sequences_NT, index, temperature=temperature)
    whole = teacher.targets(torch.from_numpy(sequences_NT[index].astype(np.int64)), torch.tensor(index))
    exact = keep_top_k(whole, top_k=top_k, vocab_size=VOCAB, temperature=temperature)
    assert torch.equal(found.ids_NK, exact.ids_NK)
    assert found.ids_NK.dtype == torch.int64
    torch.testing.assert_close(found.log_probs_NK, exact.log_probs_NK, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(found.log_tail_N, exact.log_tail_N, atol=0, rtol=2**-10)


def test_the_bytes_are_as_documented(tmp_path: Path) -> None:
    sequences_NT = make_blocks()
    write(tmp_path)
    assert sorted(files(tmp_path)) == [
        "sequences-000000000000.bin",
        "sequences-000000000004.bin",
        "sequences-000000000008.bin",
        "teacher-cache.json",
    ]
    size = 8 + SEQ_LEN * bytes_per_token(VOCAB, 5)
    shard = (tmp_path / "sequences-000000000004.bin").read_bytes()
    assert len(shard) == 4 * size
    record = shard[2 * size : 3 * size]
    text, payload = struct.unpack("<II", record[:8])
    assert text == zlib.crc32(b"".join(struct.pack("<i", one) for one in sequences_NT[6]))
    assert payload == zlib.crc32(record[8:])
    log_probs = struct.unpack("<42e", record[8 : 8 + 84])
    number = int.from_bytes(record[8 + 84 + 4 * 6 : 8 + 84 + 5 * 6], "little")  # the fifth token's ids
    found = read(tmp_path, sequences_NT, [6])
    assert found.ids_NK[4].tolist() == [number >> (9 * k) & 511 for k in range(5)]
    assert found.log_tail_N[4] == log_probs[4 * 6 + 5]
    assert list(log_probs[24:29]) == sorted(log_probs[24:29], reverse=True)
    header = json.loads((tmp_path / "teacher-cache.json").read_text())
    assert header == {
        "version": 2,
        "vocab_size": VOCAB,
        "top_k": 5,
        "drawn_tokens": 0,
        "temperature": 1.0,
        "seq_len": SEQ_LEN,
        "num_sequences": NUM_BLOCKS,
        "sequences_per_shard": 4,
        "id_bits": 9,
        "bytes_per_token": 18,
        "made_from": {"teacher": "t", "text": "x"},
    }


@pytest.mark.parametrize("stop_at", [0, 3, 5, 8, 10])
def test_a_stopped_writer_goes_on_to_the_same_bytes_and_repeats_no_whole_batch(tmp_path: Path, stop_at: int) -> None:
    write(tmp_path / "once")
    stopped, resumed = RandomTeacher(stop_at=stop_at), RandomTeacher()
    with pytest.raises(StoppedError):
        write(tmp_path / "twice", stopped)
    with pytest.raises(ValueError, match="its cache is unfinished; call its writer again"):
        open_teacher_cache(tmp_path / "twice")
    write(tmp_path / "twice", resumed)
    assert files(tmp_path / "twice") == files(tmp_path / "once")
    assert stopped.batches + resumed.batches == BATCHES


@pytest.mark.parametrize("damage", ["cut", "longer", "zeros"])
def test_a_batch_that_is_not_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "once")
    with pytest.raises(StoppedError):
        write(tmp_path / "twice", RandomTeacher(stop_at=7))
    partial = tmp_path / "twice" / "sequences-000000000004.bin.partial"
    whole = partial.read_bytes()
    record = len(whole) // 3
    ends = {"cut": whole[:-1], "longer": whole + whole[: record // 2], "zeros": whole[:-record] + bytes(record)}
    partial.write_bytes(ends[damage])
    resumed = RandomTeacher()
    write(tmp_path / "twice", resumed)
    assert files(tmp_path / "twice") == files(tmp_path / "once")
    assert resumed.batches == (BATCHES[3:] if damage == "longer" else BATCHES[2:])


def test_a_finished_cache_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path)
    again = RandomTeacher()
    write(tmp_path, again)
    assert again.batches == []


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_cache_is_refused(tmp_path: Path, finished: bool) -> None:
    if finished:
        write(tmp_path)
    else:
        with pytest.raises(StoppedError):
            write(tmp_path, RandomTeacher(stop_at=5))
    before = {name: data for name, data in files(tmp_path).items() if "lock" not in name}
    for changes in ({"top_k": 4}, {"made_from": {"teacher": "other"}}, {"temperature": 2.0}):
        with pytest.raises(ValueError, match="must hold this cache or none"):
            write(tmp_path, **changes)
    assert {name: data for name, data in files(tmp_path).items() if "lock" not in name} == before


Ranks = namedtuple("Ranks", ["rank", "world_size", "barrier"])


@pytest.mark.parametrize("count", [2, 5])
def test_several_processes_write_what_one_does(tmp_path: Path, count: int) -> None:
    write(tmp_path / "one")
    barrier, teachers = threading.Barrier(count, timeout=20), [RandomTeacher() for _ in range(count)]
    threads = [
        threading.Thread(
            target=write,
            args=(tmp_path / "several", teacher),
            kwargs={"ranks": Ranks(index, count, barrier.wait)},
        )
        for index, teacher in enumerate(teachers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(tmp_path / "several") == files(tmp_path / "one")
    assert sorted(batch for teacher in teachers for batch in teacher.batches) == BATCHES
    assert sum(bool(teacher.batches) for teacher in teachers) == min(count, 3)


def test_another_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    sequences_NT = make_blocks()
    sequences_NT[5, 3] ^= 1
    read(tmp_path, sequences_NT, [4, 6])
    with pytest.raises(ValueError, match="sequence 5: the cache was made from other text"):
        read(tmp_path, sequences_NT, [4, 5])


def test_another_temperature_is_refused(tmp_path: Path) -> None:
    write(tmp_path, temperature=2.0)
    with pytest.raises(ValueError, match="at the objective's temperature, .* is at 2.0 and the objective at 1.0"):
        CachedTeacher(open_teacher_cache(tmp_path))


@pytest.mark.parametrize("block", [-1, NUM_BLOCKS])
def test_a_block_beyond_the_cache_is_refused(tmp_path: Path, block: int) -> None:
    write(tmp_path)
    ids_1T = torch.zeros(1, SEQ_LEN, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"it has 11 and sequence {block} was asked for"):
        CachedTeacher(open_teacher_cache(tmp_path)).targets(ids_1T, torch.tensor([block]))


def test_blocks_of_another_length_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=f"sequences of {SEQ_LEN} tokens"):
        read(tmp_path, make_blocks()[:, :-1], [0])


def test_a_flipped_bit_is_noticed_at_reading(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "sequences-000000000004.bin"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 4
    path.write_bytes(damaged)
    read(tmp_path, make_blocks(), [6])
    with pytest.raises(ValueError, match="sequence 7: the bytes must be those that were written"):
        read(tmp_path, make_blocks(), [7])


def _remove_shard(folder: Path) -> None:
    (folder / "sequences-000000000008.bin").unlink()


def _cut_shard(folder: Path) -> None:
    path = folder / "sequences-000000000004.bin"
    path.write_bytes(path.read_bytes()[:-3])


def _change_header(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "teacher-cache.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _spoil_header(folder: Path) -> None:
    (folder / "teacher-cache.json").write_text('{"version": 1, "voc')


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_shard, r"sequences-000000000008.bin must be of \d+ bytes, it is missing"),
        (_cut_shard, r"sequences-000000000004.bin must be of 536 bytes, it has 533"),
        (_change_header(version=1), "header of a cache of version 2, version: "),
        (_change_header(color="red"), "header of a cache of version 2, color: "),
        (_change_header(id_bits=8), r"must say \(9, 18\) for id_bits and bytes_per_token"),
        (_change_header(top_k=VOCAB), "top_k must be at least 1 and below the vocabulary's 271"),
        (_change_header(num_sequences=13), "must be of .* bytes, it has"),
        (_spoil_header, "header of a cache of version 2, JSON: "),
        (_empty, "it has no teacher-cache.json"),
    ],
)
def test_a_damaged_or_foreign_cache_is_refused_in_a_line(tmp_path: Path, damage: Any, message: str) -> None:
    write(tmp_path / "cache")
    damage(tmp_path / "cache")
    with pytest.raises(ValueError, match=message) as caught:
        open_teacher_cache(tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("top_k", [0, VOCAB])
def test_more_tokens_than_the_vocabulary_leaves_no_rest_and_is_refused(tmp_path: Path, top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1 and below the vocabulary's 271"):
        write(tmp_path, top_k=top_k)


def test_a_vocabulary_larger_than_the_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most the rows of the teacher's head, 277, got 278"):
        write(tmp_path, vocab_size=VOCAB + 7)


def test_a_cached_teacher_cannot_be_cached_again(tmp_path: Path) -> None:
    write(tmp_path / "first")
    with pytest.raises(ValueError, match="must be made from whole distributions"):
        write(tmp_path / "second", CachedTeacher(open_teacher_cache(tmp_path / "first")))


def test_a_full_disk_is_refused_before_the_teacher_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    teacher = RandomTeacher()
    with pytest.raises(ValueError, match=re.escape("GiB free for the teacher's cache")):
        write(tmp_path, teacher)
    assert teacher.batches == []


def test_drawn_tokens_are_of_the_rest_and_the_same_whatever_the_batches(tmp_path: Path) -> None:
    sequences_NT = make_blocks()
    one, other = (
        write(tmp_path / name, batch_size=batch, drawn_tokens=9, top_k=5) for name, batch in (("one", 1), ("other", 4))
    )
    assert one.header.bytes_per_token == bytes_per_token(VOCAB, 5, 9) == 16 + 2 * 7
    plain = write(tmp_path / "plain", top_k=5)
    for block in range(len(sequences_NT)):
        found, again, without = (
            cache.read(block, sequences_NT[block], device=torch.device("cpu")) for cache in (one, other, plain)
        )
        assert found.drawn is not None
        assert again.drawn is not None
        assert torch.equal(found.drawn.ids_NM, again.drawn.ids_NM)
        assert torch.equal(found.ids_NK, without.ids_NK)
        assert torch.equal(found.log_probs_NK, without.log_probs_NK)
        assert not (found.drawn.ids_NM[:, :, None] == found.ids_NK[:, None, :]).any()
        assert (found.drawn.ids_NM < VOCAB).all()
