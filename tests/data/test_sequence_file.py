import pickle
from pathlib import Path

import numpy as np
import pytest

from minitron.data.masks import TokenSequences
from minitron.data.packing import write_sequence_file
from minitron.data.sequence_file import SequenceFile, open_sequence_file
from minitron.data.sequences import blend_sources
from minitron.data.sources import Blend, TextSource
from tests.support.models import make_tokenizer

SEQ_LEN, NUM_BLOCKS, SEED = 9, 23, 5


@pytest.fixture
def blocks(tmp_path: Path) -> SequenceFile:
    return write(tmp_path)


def write(folder: Path, *, added_tokens: int = 0) -> SequenceFile:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<{i}>" for i in range(added_tokens)])
    return write_sequence_file(
        folder / "blocks",
        Blend(sources=[source(folder)], seq_len=SEQ_LEN, num_sequences=NUM_BLOCKS, seed=SEED),
        tokenizer,
        made_from={"text": "a hash"},
    )


@pytest.fixture
def array(tmp_path: Path) -> TokenSequences:
    return blend_sources([source(tmp_path)], make_tokenizer(), seq_len=SEQ_LEN, num_sequences=NUM_BLOCKS, seed=SEED)


def source(folder: Path) -> TextSource:
    path = folder / "text.txt"
    path.write_text("\n---\n".join(f"{i} " * (1 + i % 5) for i in range(70)))
    return TextSource(path=str(path))


def test_blocks_are_read_like_the_array_that_they_would_be(blocks: SequenceFile, array: TokenSequences) -> None:
    assert (len(blocks), blocks.shape) == (NUM_BLOCKS, (NUM_BLOCKS, SEQ_LEN))
    for index in (0, 7, -1, np.int64(4), slice(3, 11), slice(None), slice(20, 2, -3), [5, 1, 5], np.array([22, 0])):
        np.testing.assert_array_equal(blocks[index], array[index])
        assert blocks[index].dtype == np.int32
    assert [row.tolist() for row in blocks] == array.tolist()
    with pytest.raises(IndexError):
        blocks[NUM_BLOCKS]


@pytest.mark.parametrize("added", [0, 2**16], ids=["uint16", "int32"])
def test_what_is_read_is_the_callers_own(tmp_path: Path, array: TokenSequences, added: int) -> None:
    blocks = write(tmp_path, added_tokens=added)
    for index in (2, slice(1, 4)):
        blocks[index][...] = 0
        np.testing.assert_array_equal(blocks[index], array[index])


def test_a_part_is_a_span_of_the_order(blocks: SequenceFile, array: TokenSequences) -> None:
    part = blocks.part(4, 19)
    np.testing.assert_array_equal(part[:], array[4:19])
    np.testing.assert_array_equal(part.part(3)[:], array[7:19])
    assert part.shape == (15, SEQ_LEN)


def test_a_pickle_holds_the_path_and_not_the_blocks(blocks: SequenceFile, array: TokenSequences) -> None:
    pickled = pickle.dumps(blocks.part(4, 19))
    assert len(pickled) < 400
    np.testing.assert_array_equal(pickle.loads(pickled)[:], array[4:19])


def test_a_file_says_what_it_holds(blocks: SequenceFile) -> None:
    header = open_sequence_file(blocks.path).header
    assert (header.seq_len, header.num_sequences, header.seed) == (SEQ_LEN, NUM_BLOCKS, SEED)
    assert header.made_from == {"text": "a hash"}


@pytest.mark.parametrize(("added", "dtype", "id_bytes"), [(0, "uint16", 2), (2**16, "int32", 4)])
def test_ids_take_two_bytes_where_the_vocabulary_allows_it(
    tmp_path: Path, array: TokenSequences, added: int, dtype: str, id_bytes: int
) -> None:
    blocks = write(tmp_path, added_tokens=added)
    begins = len(blocks.header.to_bytes())
    assert blocks.header.dtype == dtype
    assert blocks.path.stat().st_size == begins + id_bytes * NUM_BLOCKS * SEQ_LEN
    assert begins % 64 == 0
    np.testing.assert_array_equal(blocks[:], array)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_refused(blocks: SequenceFile, change: int) -> None:
    content = blocks.path.read_bytes()
    blocks.path.write_bytes(content[:-1] if change < 0 else content + b"x")
    with pytest.raises(
        ValueError, match=rf"must have {len(content)} bytes .* it has {len(content) + change}"
    ) as caught:
        open_sequence_file(blocks.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "begins", [b"", b"minitron", b"minitron blocks\n", b"minitron blocks\n" + b"\xff" * 40, b"x" * 99]
)
def test_a_file_that_does_not_begin_with_a_header_is_refused(tmp_path: Path, begins: bytes) -> None:
    (tmp_path / "blocks").write_bytes(begins)
    with pytest.raises(ValueError, match="must begin with its header") as caught:
        open_sequence_file(tmp_path / "blocks")
    assert "\n" not in str(caught.value)


def test_a_header_that_claims_other_sizes_is_refused(blocks: SequenceFile) -> None:
    content = blocks.path.read_bytes()
    blocks.path.write_bytes(content.replace(b'"num_sequences":23', b'"num_sequences":24'))
    with pytest.raises(ValueError, match="for 24 sequences of 9 uint16 ids, it has"):
        open_sequence_file(blocks.path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sequence file not found"):
        open_sequence_file(tmp_path / "blocks")
