"""File format of a teacher's cache: a header, and shards of records that are memory-mapped when read."""

# T tokens a sequence

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from minitron.distill.loss.objective import TopTargets
from minitron.distill.teachers.packing import id_bits
from minitron.distill.teachers.records import RecordLayout, bytes_per_token
from minitron.errors import MinitronError
from minitron.units import GIB

HEADER_FILE = "teacher-cache.json"
PLAN_FILE = "teacher-cache.partial.json"
SHARD_BYTES = GIB
CACHE_VERSION = 2
MOST_IDS, MOST_TOKENS, MOST_SEQUENCES = 2**26, 2**28, 2**40  # beyond every cache


class CacheHeader(BaseModel):
    """Header of a teacher's cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = Field(default=2, description="Version of the format.")
    vocab_size: int = Field(ge=2, le=MOST_IDS, description="Size of the vocabulary that the probabilities are over.")
    top_k: int = Field(ge=1, le=MOST_IDS, description="Tokens kept of each distribution.")
    drawn_tokens: int = Field(
        default=0, ge=0, le=MOST_IDS, description="Tokens drawn from the tail of each distribution."
    )
    temperature: float = Field(gt=0, allow_inf_nan=False, description="Softmax temperature of the probabilities.")
    seq_len: int = Field(ge=1, le=MOST_TOKENS, description="Tokens a sequence.")
    num_sequences: int = Field(ge=1, le=MOST_SEQUENCES, description="Sequences.")
    sequences_per_shard: int = Field(ge=1, le=MOST_SEQUENCES, description="Sequences in each file but the last.")
    id_bits: int = Field(description="Bits of a token id.")
    bytes_per_token: int = Field(description="Bytes a token.")
    made_from: dict[str, JsonValue] = Field(description="What teacher and text it was made from.")

    @property
    def layout(self) -> RecordLayout:
        """Sizes of its records."""
        return RecordLayout(
            vocab_size=self.vocab_size, top_k=self.top_k, drawn_tokens=self.drawn_tokens, seq_len=self.seq_len
        )

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        return self.num_sequences * self.layout.record_bytes

    @property
    def num_shards(self) -> int:
        """Files that hold the sequences."""
        return -(-self.num_sequences // self.sequences_per_shard)

    def shard_sequences(self, shard: int) -> range:
        """The sequences of a shard."""
        first = shard * self.sequences_per_shard
        return range(first, min(first + self.sequences_per_shard, self.num_sequences))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContents:
    """What a cache keeps of the teacher's distributions.

    Attributes:
        vocab_size: Rows of the head beyond it are padding and have no share of the probability.
        top_k: Tokens kept, below `vocab_size`.
        drawn_tokens: Tokens drawn from the tail of each distribution, at random that a sequence's position fixes.
        temperature: Softmax temperature of what is kept.
        made_from: Hashes of the teacher and of the text, by which an unfinished cache is known to be the same.
        shard_bytes: What a file takes at most, or a sequence where that is larger; processes share out whole files.
    """

    vocab_size: int
    top_k: int
    drawn_tokens: int = 0
    temperature: float = 1.0
    made_from: Mapping[str, object]
    shard_bytes: int = SHARD_BYTES


def make_header(contents: CacheContents, *, seq_len: int, num_sequences: int) -> CacheHeader:
    """The header of a cache of so many sequences.

    Raises:
        MinitronError: The sizes are none that a cache can have.
    """
    vocab_size, top_k, drawn_tokens = contents.vocab_size, contents.top_k, contents.drawn_tokens
    _check_sizes(vocab_size, top_k)
    layout = RecordLayout(vocab_size=vocab_size, top_k=top_k, drawn_tokens=drawn_tokens, seq_len=seq_len)
    return CacheHeader(
        vocab_size=vocab_size,
        top_k=top_k,
        drawn_tokens=drawn_tokens,
        temperature=contents.temperature,
        seq_len=seq_len,
        num_sequences=num_sequences,
        sequences_per_shard=min(num_sequences, max(1, contents.shard_bytes // layout.record_bytes)),
        id_bits=id_bits(vocab_size),
        bytes_per_token=bytes_per_token(vocab_size, top_k, drawn_tokens),
        made_from=json.loads(json.dumps(contents.made_from)),  # as it will be read again
    )


def shard_file(folder: Path, header: CacheHeader, shard: int) -> Path:
    """Where a shard lies: it is named by its first sequence."""
    return folder / f"sequences-{header.shard_sequences(shard).start:012d}.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCache:
    """A whole cache.

    Attributes:
        folder: Where it lies.
        header: Its header.
    """

    folder: Path
    header: CacheHeader
    _maps: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False, compare=False)

    def read(self, sequence: int, ids_T: npt.NDArray[np.integer], *, device: torch.device) -> TopTargets:
        """The targets of a sequence, whose token ids are given so that another text is noticed.

        Raises:
            MinitronError: There is no such sequence, it is of another text or other length, or it was damaged.
        """
        header = self.header
        if not 0 <= sequence < header.num_sequences:
            raise MinitronError(
                f"the cache {self.folder} must hold every sequence that is read, it has {header.num_sequences} and "
                f"sequence {sequence} was asked for; make it from the whole text"
            )
        if len(ids_T) != header.seq_len:
            raise MinitronError(
                f"the text must be in sequences of {header.seq_len} tokens as the cache {self.folder}, got {len(ids_T)}"
            )
        shard, position = divmod(sequence, header.sequences_per_shard)
        if shard not in self._maps:
            self._maps[shard] = np.memmap(shard_file(self.folder, header, shard), np.uint8, mode="r")
        size = header.layout.record_bytes
        record = self._maps[shard].data[position * size : (position + 1) * size]
        try:
            return header.layout.decode(record, ids_T, device=device)
        except ValueError as error:
            raise MinitronError(f"{self.folder}, sequence {sequence}: {error}") from error


def open_teacher_cache(folder: Path) -> TeacherCache:
    """A whole cache, ready to be read.

    Raises:
        MinitronError: The folder holds no cache, an unfinished or damaged one, or one of another format.
    """
    path = folder / HEADER_FILE
    if not path.is_file():
        unfinished = (folder / PLAN_FILE).is_file()
        raise MinitronError(
            f"{folder} must hold a teacher's cache, "
            + ("its cache is unfinished; call its writer again to resume" if unfinished else f"it has no {HEADER_FILE}")
        )
    header = read_cache_header(path)
    for shard in range(header.num_shards):
        path, expected = (
            shard_file(folder, header, shard),
            len(header.shard_sequences(shard)) * header.layout.record_bytes,
        )
        found = path.stat().st_size if path.is_file() else None
        if found != expected:
            raise MinitronError(
                f"{path} must be of {expected} bytes, it {'is missing' if found is None else f'has {found}'}; "
                "make the cache again"
            )
    return TeacherCache(folder=folder, header=header)


def read_cache_header(path: Path) -> CacheHeader:
    """The header in a file.

    Raises:
        MinitronError: It is none of this version, or its sizes contradict each other.
    """
    try:
        header = CacheHeader.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise MinitronError(
            f"{path} must be the header of a cache of version {CACHE_VERSION}, {where}: {first['msg']}"
        ) from error
    _check_sizes(header.vocab_size, header.top_k)
    expected = (id_bits(header.vocab_size), bytes_per_token(header.vocab_size, header.top_k, header.drawn_tokens))
    if (header.id_bits, header.bytes_per_token) != expected:
        raise MinitronError(
            f"{path} must say {expected} for id_bits and bytes_per_token, which follow from vocab_size, top_k and "
            f"drawn_tokens, it says {(header.id_bits, header.bytes_per_token)}; make the cache again"
        )
    return header


def _check_sizes(vocab_size: int, top_k: int) -> None:
    id_bits(vocab_size)
    if not 1 <= top_k < vocab_size:
        raise MinitronError(f"top_k must be at least 1 and below the vocabulary's {vocab_size}, got {top_k}")
