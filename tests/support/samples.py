"""Calibration samples, and scores held against each other."""

import numpy as np

from minitron.data.samples import Samples
from minitron.importance.scores import Scores


def make_samples(*, padded: bool, count: int = 5) -> Samples:
    token_ids = np.random.default_rng(0).integers(3, 271, (count, 13), dtype=np.int32)
    return Samples(token_ids=token_ids, lengths=np.array([5, 13, 9, 1, 12])[:count] if padded else None)


def assert_identical(found: Scores, expected: Scores) -> None:
    """Bit for bit."""
    for axis in ("intermediate_size", "mamba", "num_attention_heads"):
        one, other = getattr(found, axis), getattr(expected, axis)
        assert list(one) == list(other)
        for layer in one:
            np.testing.assert_array_equal(one[layer], other[layer])
    assert found.hidden_size is not None
    assert expected.hidden_size is not None
    np.testing.assert_array_equal(found.hidden_size, expected.hidden_size)
    np.testing.assert_array_equal(found.depth, expected.depth)
    assert found.removed == expected.removed
