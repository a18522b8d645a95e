"""Second moments against float64 sums over explicit rows."""

import pytest
import torch

from minitron.prune.reconstruction import moments
from minitron.prune.reconstruction.moments import Moments


@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_sums_of_several_batches_are_those_of_all_counted_tokens(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(moments, "ROWS", rows)
    generator, found = torch.Generator().manual_seed(0), Moments()
    targets, inputs = (torch.randn(3, 2, 5, dim, generator=generator) for dim in (4, 7))
    masks = torch.rand(3, 2, 5, generator=generator) > 0.3
    for batch in range(3):
        found.update((targets[batch], inputs[batch]), masks[batch])
    target_ND, input_NC = targets[masks].double(), inputs[masks].double()
    assert found.gram.dtype == torch.float64
    torch.testing.assert_close(found.cross, target_ND.T @ input_NC, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.gram, input_NC.T @ input_NC, rtol=1e-5, atol=1e-5)
