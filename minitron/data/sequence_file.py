"""Packed sequences in a memory-mapped file, indexed like an array."""

# N sequences, T tokens a sequence, n sequences of a slice

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minitron.data.masks import LossMask, PackedText, TokenSequences
from minitron.data.sequences import blend_order
from minitron.data.sources import Blend
from minitron.data.special_tokens import closing_token
from minitron.data.tokenizer import Tokenizer
from minitron.errors import DataError
from minitron.settings import SEEDS

MAGIC = b"minitron blocks\n"
LENGTH_BYTES = 8  # of the header, little-endian, right after the magic
ALIGNMENT = 64
MOST_TOKENS, MOST_SEQUENCES = 2**28, 2**40  # beyond them numpy's own numbers wrap around


class SequenceFileHeader(BaseModel):
    """Header of a sequence file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1, 2] = Field(
        default=1, description="Version of the file's form: 2 where a loss mask lies behind the ids of each sequence."
    )
    seq_len: int = Field(ge=1, le=MOST_TOKENS, description="Tokens a sequence.")
    num_sequences: int = Field(ge=1, le=MOST_SEQUENCES, description="Sequences.")
    dtype: Literal["uint16", "int32"] = Field(description="Type of a stored id, little-endian.")
    seed: int = Field(
        ge=0, lt=SEEDS, description="Seed of the blend, which also orders the sequences as they are read."
    )
    made_from: dict[str, object] = Field(description="Hashes of the text and the tokenizer.")

    @property
    def stored(self) -> np.dtype[np.integer]:
        """Type of an id in the file."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def sequence_bytes(self) -> int:
        """Bytes of a sequence, its mask included."""
        return self.record.itemsize

    @property
    def is_masked(self) -> bool:
        """Whether it says of each token if a loss counts it."""
        return self.version == 2

    @property
    def record(self) -> np.dtype[np.void]:
        """Type of a sequence in the file: its ids, and in version 2 a bit a token, the first one lowest."""
        fields: list[tuple[str, Any, tuple[int, ...]]] = [("ids", self.stored, (self.seq_len,))]
        if self.is_masked:
            fields.append(("counted", np.uint8, (-(-self.seq_len // 8),)))
        return np.dtype(fields)

    def to_records(self, chunk: PackedText) -> bytes:
        """Sequences as the file holds them."""
        records = np.empty(len(chunk), dtype=self.record)
        records["ids"] = chunk.ids_NT
        if self.is_masked:
            records["counted"] = np.packbits(chunk.all_counted(), axis=1, bitorder="little")
        return records.tobytes()

    def to_bytes(self) -> bytes:
        """Magic, length and header, padded so that the ids are aligned."""
        text = self.model_dump_json().encode()
        text += b" " * (-(len(MAGIC) + LENGTH_BYTES + len(text)) % ALIGNMENT)
        return MAGIC + len(text).to_bytes(LENGTH_BYTES, "little") + text


def make_header(blend: Blend, tokenizer: Tokenizer, made_from: Mapping[str, object]) -> SequenceFileHeader:
    """The header of a blend's file; an id takes two bytes where the tokenizer's highest one fits, else four.

    The file has a loss mask where one of the sources needs it; text alone keeps the form without.
    """
    highest = max(*tokenizer.get_vocab().values(), closing_token(tokenizer))
    return SequenceFileHeader(
        version=2 if any(source.is_masked for source in blend.sources) else 1,
        seq_len=blend.seq_len,
        num_sequences=blend.num_sequences,
        dtype="uint16" if highest <= np.iinfo(np.uint16).max else "int32",
        seed=blend.seed,
        made_from=json.loads(json.dumps(made_from, default=str)),  # as it will be read back
    )


@final
class SequenceFile:
    """Sequences of a file, in the blend's order; only the sequences that are indexed are read.

    `sequences[i]` is an array [T], `sequences[a:b]` and `sequences[[i, j]]` are arrays [n, T], all int32 and copies.
    It is pickled by its path, so that worker processes map the file themselves.

    Attributes:
        path: The file.
        header: Its header.
        shape: (N, T).
    """

    def __init__(
        self, path: Path, header: SequenceFileHeader, offset: int, *, start: int = 0, stop: int | None = None
    ) -> None:
        self.path = path
        self.header = header
        self._span = range(header.num_sequences)[start:stop]
        self.shape = (len(self._span), header.seq_len)
        self._offset = offset
        self._order_N = blend_order(header.num_sequences, seed=header.seed)[start:stop]
        size = (header.num_sequences,)
        self._stored_N: npt.NDArray[np.void] = np.memmap(path, header.record, mode="r", offset=offset, shape=size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | npt.NDArray[np.integer]) -> TokenSequences:
        return np.array(self._stored_N[self._order_N[index]]["ids"], dtype=np.int32)

    def counted(self, index: int | slice) -> LossMask | None:
        """Which tokens [T] of a sequence, or [n, T] of a slice, a loss counts; None where all of the file do."""
        if not self.header.is_masked:
            return None
        packed = np.asarray(self._stored_N[self._order_N[index]]["counted"])
        return np.unpackbits(packed, axis=-1, count=self.header.seq_len, bitorder="little").astype(bool)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self._span.start, self._span.stop)

    def part(self, start: int, stop: int | None = None) -> "SequenceFile":
        """The sequences from position `start` to before `stop`, still in the file."""
        span = self._span[start:stop]
        return SequenceFile(self.path, self.header, self._offset, start=span.start, stop=span.stop)


def open_sequence_file(path: Path) -> SequenceFile:
    """Opens a finished file.

    Raises:
        DataError: There is no such file, or it is not what its header says.
    """
    if not path.is_file():
        raise DataError(f"sequence file not found: {path}")
    with path.open("rb") as file:
        begins = file.read(len(MAGIC) + LENGTH_BYTES)
        length = int.from_bytes(begins[len(MAGIC) :], "little")
        size = path.stat().st_size
        try:
            header = SequenceFileHeader.model_validate_json(
                file.read(min(length, size) if begins.startswith(MAGIC) else 0)
            )
        except ValidationError as error:
            raise DataError(
                f"a sequence file must begin with its header, {path} does not; pack the text anew"
            ) from error
    offset = len(begins) + length
    expected = offset + header.num_sequences * header.sequence_bytes
    if size != expected:
        raise DataError(
            f"{path} must have {expected:,} bytes for {header.num_sequences:,} sequences of {header.seq_len:,} "
            f"{header.dtype} ids, it has {size:,}; delete it and pack the text anew"
        )
    return SequenceFile(path, header, offset)


def _reopen(path: Path, start: int, stop: int) -> SequenceFile:
    return open_sequence_file(path).part(start, stop)
