"""A block of the teacher's cache as bytes. The format is described in docs/teacher-cache.md."""

# T tokens a block, K ids a token, X = K + 1 outcomes, W bytes a token's packed ids

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from minitron.distill.loss.objective import TopTargets
from minitron.distill.teachers.packing import id_bits, pack_ids, packed_bytes, unpack_ids
from minitron.distill.teachers.top_k import from_fp16, to_fp16

CHECKSUMS = struct.Struct("<II")  # of the block's text, of what follows
FP16 = np.dtype("<f2")


def bytes_per_token(vocab_size: int, top_k: int) -> int:
    """Bytes of the cache a token; a block has 8 more.

    >>> bytes_per_token(131072, 64)
    266
    """
    return packed_bytes(top_k, id_bits(vocab_size)) + FP16.itemsize * (top_k + 1)


def text_checksum(ids_T: npt.NDArray[np.integer]) -> int:
    """CRC-32 of a block's token ids as little-endian 32-bit integers."""
    return zlib.crc32(ids_T.astype("<i4").tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLayout:
    """Sizes that all blocks of a cache share.

    Attributes:
        vocab_size: Ids are below it.
        top_k: Tokens kept.
        seq_len: Tokens a block.
    """

    vocab_size: int
    top_k: int
    seq_len: int

    @property
    def record_bytes(self) -> int:
        """Bytes of a block."""
        return CHECKSUMS.size + self.seq_len * bytes_per_token(self.vocab_size, self.top_k)

    def encode(self, targets: TopTargets, ids_T: npt.NDArray[np.integer]) -> bytes:
        """The record of a block's targets and text."""
        log_probs_TX = to_fp16(targets).cpu().numpy().astype(FP16)
        packed_TW = pack_ids(targets.ids_NK.cpu().numpy(), id_bits(self.vocab_size))
        payload = log_probs_TX.tobytes() + packed_TW.tobytes()
        return CHECKSUMS.pack(text_checksum(ids_T), zlib.crc32(payload)) + payload

    def is_whole(self, record: memoryview, ids_T: npt.NDArray[np.integer]) -> bool:
        """Whether a record was written to its end and is of this text."""
        if len(record) != self.record_bytes:
            return False
        text, payload = CHECKSUMS.unpack_from(record)
        return bool((text, payload) == (text_checksum(ids_T), zlib.crc32(record[CHECKSUMS.size :])))

    def decode(self, record: memoryview, ids_T: npt.NDArray[np.integer], *, device: torch.device) -> TopTargets:
        """The targets of a block of this text.

        Raises:
            ValueError: The record is of another text, or not what was written.
        """
        text, payload = CHECKSUMS.unpack_from(record)
        if text != text_checksum(ids_T):
            raise ValueError("the cache was made from other text; make it again, or take the text of its making")
        if payload != zlib.crc32(record[CHECKSUMS.size :]):
            raise ValueError("the bytes must be those that were written, their checksum differs; make the cache again")
        tokens, outcomes = self.seq_len, self.top_k + 1
        log_probs_TX = np.frombuffer(record, FP16, tokens * outcomes, CHECKSUMS.size).reshape(tokens, outcomes)
        packed_TW = np.frombuffer(record, np.uint8, offset=CHECKSUMS.size + log_probs_TX.nbytes).reshape(tokens, -1)
        ids_TK = torch.from_numpy(unpack_ids(packed_TW, id_bits(self.vocab_size), self.top_k))
        # The file stays as it is: torch gets a copy in the machine's byte order.
        stored_TX = torch.from_numpy(log_probs_TX.astype(np.float16))
        return from_fp16(ids_TK.to(device).long(), stored_TX.to(device))
