"""Token ids in few bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitron.distill.teachers.packing import id_bits, pack_ids, packed_bytes, unpack_ids
from minitron.distill.teachers.records import bytes_per_token


@given(bits=st.integers(1, 24), tokens=st.integers(0, 5), top_k=st.integers(1, 37), seed=st.integers(0, 2**31))
def test_ids_come_back_as_they_were_packed(bits: int, tokens: int, top_k: int, seed: int) -> None:
    ids_NK = np.random.default_rng(seed).integers(0, 2**bits, (tokens, top_k))
    packed_NW = pack_ids(ids_NK, bits)
    assert packed_NW.shape == (tokens, packed_bytes(top_k, bits))
    np.testing.assert_array_equal(unpack_ids(packed_NW, bits, top_k), ids_NK)


@given(bits=st.integers(1, 20), top_k=st.integers(1, 19), seed=st.integers(0, 2**31))
def test_bits_lie_in_the_documented_order(bits: int, top_k: int, seed: int) -> None:
    ids = [int(one) for one in np.random.default_rng(seed).integers(0, 2**bits, top_k)]
    number = sum(one << (position * bits) for position, one in enumerate(ids))
    expected = number.to_bytes(packed_bytes(top_k, bits), "little")
    assert pack_ids(np.array([ids]), bits).tobytes() == expected


def test_an_id_takes_as_many_bits_as_the_largest_one() -> None:
    assert [id_bits(size) for size in (2, 3, 4, 5, 131071, 131072, 131073, 2**24)] == [1, 2, 2, 3, 17, 17, 18, 24]


@pytest.mark.parametrize("size", [1, 2**24 + 1])
def test_a_vocabulary_that_has_no_ids_to_pack_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="vocab_size must be from 2"):
        id_bits(size)


def test_bytes_a_token_are_ids_and_half_precision_numbers() -> None:
    assert bytes_per_token(131072, 64) == 64 * 17 // 8 + 65 * 2
    assert bytes_per_token(271, 5) == 6 + 12
