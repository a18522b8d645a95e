"""Bytes of a sequence in the teacher's cache. The format is described in docs/teacher-cache.md."""

# T tokens a sequence, K ids a token, X = K + 1 outcomes, W bytes a token's packed ids

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from minitron.distill.loss.objective import TopTargets
from minitron.distill.teachers.packing import id_bits, pack_ids, packed_bytes, unpack_ids
from minitron.distill.teachers.top_k import from_fp16, to_fp16
from minitron.errors import MinitronError

CHECKSUMS = struct.Struct("<II")  # of the sequence's text, of what follows
FP16 = np.dtype("<f2")


def bytes_per_token(vocab_size: int, top_k: int, drawn_tokens: int = 0) -> int:
    """Bytes of the cache a token; a sequence has 8 more.

    >>> bytes_per_token(131072, 64), bytes_per_token(131072, 64, 16)
    (266, 302)
    """
    return packed_bytes(top_k + drawn_tokens, id_bits(vocab_size)) + FP16.itemsize * stored_numbers(top_k, drawn_tokens)


def stored_numbers(top_k: int, drawn_tokens: int) -> int:
    """Numbers a token: log-probabilities of the kept and of the tail, and the tail's entropy where it is drawn from."""
    return top_k + 1 + (drawn_tokens > 0)


def text_checksum(ids_T: npt.NDArray[np.integer]) -> int:
    """CRC-32 of a sequence's token ids as little-endian 32-bit integers."""
    return zlib.crc32(ids_T.astype("<i4").tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLayout:
    """Sizes that all sequences of a cache share.

    Attributes:
        vocab_size: Ids are below it.
        top_k: Tokens kept.
        drawn_tokens: Tokens drawn from the tail.
        seq_len: Tokens a sequence.
    """

    vocab_size: int
    top_k: int
    seq_len: int
    drawn_tokens: int = 0

    @property
    def record_bytes(self) -> int:
        """Bytes of a sequence."""
        return CHECKSUMS.size + self.seq_len * bytes_per_token(self.vocab_size, self.top_k, self.drawn_tokens)

    def encode(self, targets: TopTargets, ids_T: npt.NDArray[np.integer]) -> bytes:
        """The record of a sequence's targets and text."""
        log_probs_TX = to_fp16(targets).cpu().numpy().astype(FP16)
        ids_TX = targets.ids_NK if targets.drawn is None else torch.cat([targets.ids_NK, targets.drawn.ids_NM], dim=1)
        packed_TW = pack_ids(ids_TX.cpu().numpy(), id_bits(self.vocab_size))
        payload = log_probs_TX.tobytes() + packed_TW.tobytes()
        return CHECKSUMS.pack(text_checksum(ids_T), zlib.crc32(payload)) + payload

    def is_whole(self, record: memoryview, ids_T: npt.NDArray[np.integer]) -> bool:
        """Whether a record was written to its end and is of this text."""
        if len(record) != self.record_bytes:
            return False
        text, payload = CHECKSUMS.unpack_from(record)
        return bool((text, payload) == (text_checksum(ids_T), zlib.crc32(record[CHECKSUMS.size :])))

    def decode(self, record: memoryview, ids_T: npt.NDArray[np.integer], *, device: torch.device) -> TopTargets:
        """The targets of a sequence of this text.

        Raises:
            MinitronError: The record is of another text, or not what was written.
        """
        text, payload = CHECKSUMS.unpack_from(record)
        if text != text_checksum(ids_T):
            raise MinitronError("the cache was made from other text; make it again, or take the text of its making")
        if payload != zlib.crc32(record[CHECKSUMS.size :]):
            raise MinitronError(
                "the bytes must be those that were written, their checksum differs; make the cache again"
            )
        tokens, outcomes = self.seq_len, stored_numbers(self.top_k, self.drawn_tokens)
        log_probs_TX = np.frombuffer(record, FP16, tokens * outcomes, CHECKSUMS.size).reshape(tokens, outcomes)
        packed_TW = np.frombuffer(record, np.uint8, offset=CHECKSUMS.size + log_probs_TX.nbytes).reshape(tokens, -1)
        ids_TX = torch.from_numpy(unpack_ids(packed_TW, id_bits(self.vocab_size), self.top_k + self.drawn_tokens))
        ids_TX = ids_TX.to(device).long()
        drawn_TM = ids_TX[:, self.top_k :] if self.drawn_tokens else None
        # The file stays as it is: torch gets a copy in the machine's byte order.
        stored_TX = torch.from_numpy(log_probs_TX.astype(np.float16))
        return from_fp16(ids_TX[:, : self.top_k], stored_TX.to(device), drawn_TM)
